#!/usr/bin/env bash
# msgspec 0.22.0 reads an RFC 3339 time with nine digits as the *nearest* microsecond, Python's own reader cuts it off.
#
# `2026-11-27T23:59:59.999999999Z` (Go, Java and Rust write nine digits) becomes the next day with msgspec.json.decode, and stays
# in its day with datetime.fromisoformat (Python 3.11). The same instant as an integer of nanoseconds, divided by 1,000 as everybody does, stays, too.
# So one producer's two ways to write a time give two steps, two days, or a time that is ahead of its record.
# What to do: take the text where it has more than six digits, and cut it off (streamrnn does).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "msgspec==0.22.0"
"$work/venv/bin/python" - <<'PYTHON'
from datetime import UTC, datetime

import msgspec

text = "2026-11-27T23:59:59.999999999Z"
by_msgspec = msgspec.json.decode(f'"{text}"', type=datetime)
by_python = datetime.fromisoformat(text)
nanoseconds = 1_795_823_999_999_999_999
by_integer = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).replace(microsecond=nanoseconds // 1000 % 1_000_000)
print("msgspec  ", by_msgspec)
print("Python   ", by_python)
print("integer  ", by_integer)
assert by_msgspec == datetime(2026, 11, 28, tzinfo=UTC), "msgspec no longer rounds up"
assert by_python == by_integer == datetime(2026, 11, 27, 23, 59, 59, 999999, tzinfo=UTC), "Python no longer cuts off"
# Halves, too: the seventh digit decides.
assert msgspec.json.decode('"2026-11-27T00:00:00.0000005Z"', type=datetime).microsecond == 1
assert msgspec.json.decode('"2026-11-27T00:00:00.0000004Z"', type=datetime).microsecond == 0
print("as stated: msgspec 0.22.0 rounds the seventh digit")
PYTHON
