"""Imported by the server that workers are forked from: what their first seconds go into is done once, for all of them."""

from __future__ import annotations

from streamrnn.app.warm_up import warm_up_kernels
from streamrnn.config.settings import load
from streamrnn.serving.worker import prepare_process

prepare_process()
warm_up_kernels(load([], {"input": "ticks", "channels": ["a"], "step": "1s", "horizon": 1}, {}))
