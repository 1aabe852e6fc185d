"""Records no service should fall over, with the reason a careful one gives for refusing them.

The kinds are what JSON decoders are known to let through or to choke on: non-finite numbers, wrong types, broken
encodings, deep nesting, tombstones. Records above a size limit are not among them: brokers refuse to take those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

# Deep enough for any recursive parser to give up; 100,000 would be half a megabyte in each record.
DEPTH = 5_000


@dataclass(frozen=True, slots=True)
class Poison:
    """`keyed`: sent with a series' key; else without any."""

    name: str
    value: bytes | None
    reason: str
    keyed: bool = True


def poisons(channels: Sequence[str]) -> tuple[Poison, ...]:
    """Every kind once, for a stream with these channels (wide or long) and no other decoding than the default."""
    channel = orjson.dumps(channels[0])

    def wide(value: bytes = b"1.5", ts: bytes = b"1764000000000", series: bytes = b'"x"') -> bytes:
        return b'{"series":' + series + b',"ts":' + ts + b',"values":{' + channel + b":" + value + b"}}"

    return (
        Poison("tombstone", None, "tombstone"),
        Poison("empty", b"", "malformed"),
        Poison("brace", b"{", "malformed"),
        Poison("truncated", wide()[:-1], "malformed"),
        Poison("trailing bytes", wide() + b"x", "malformed"),
        Poison("two lines", wide() + b"\n" + wide(), "malformed"),
        Poison("not UTF-8", b"\xff\xfe\x00", "malformed"),
        Poison("not UTF-8 in the series", wide(series=b'"\xff"'), "malformed"),
        Poison("byte order mark", b"\xef\xbb\xbf" + wide(), "malformed"),
        Poison("deep nesting", b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, "malformed"),
        Poison("array", b"[1,2,3]", "type"),
        Poison("text for a number", wide(b'"1.0"'), "type"),
        Poison("truth for a number", wide(b"true"), "type"),
        Poison("object for the series", wide(series=b'{"a":1}'), "type"),
        Poison("NaN", wide(b"NaN"), "range"),
        Poison("Infinity", wide(b"-Infinity"), "range"),
        Poison("beyond 64 bits", wide(b"1e400"), "range"),
        Poison("beyond 32 bits", wide(b"1e39"), "range"),
        Poison("long integer", wide(b"9" * 400), "range"),
        Poison("lone surrogate", wide(series=rb'"\ud800"'), "range"),
        Poison("NUL in the series", wide(series=rb'"x\u0000"'), "range"),
        Poison("series of 4 KiB", wide(series=b'"' + b"x" * 4096 + b'"'), "range"),
        Poison("time in words", wide(ts=b'"yesterday"'), "timestamp"),
        Poison("time of 40 digits", wide(ts=b"9" * 40), "timestamp"),
        Poison("time before 1970", wide(ts=b"-1"), "timestamp"),
        Poison("no values", b'{"series":"x","ts":1764000000000,"values":{}}', "no-values"),
        Poison("foreign", b'{"level":"info","message":"started"}', "no-values"),
        Poison("unknown channel", b'{"series":"x","ts":1,"channel":"no such channel","value":1}', "unknown-channel"),
        Poison("nobody's", wide().replace(b'"series":"x",', b""), "no-series", keyed=False),
    )
