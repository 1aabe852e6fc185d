"""Imported by the server that workers are forked from: what their first seconds go into is done once, for all of them."""

from __future__ import annotations

from streamrnn.service.config import load
from streamrnn.service.rehearsal import rehearse
from streamrnn.service.worker import prepare_process

prepare_process()
rehearse(load([], {"input": "ticks", "channels": ["a"], "step": "1s", "horizon": 1}, {}))
