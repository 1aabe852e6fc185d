"""Hostile and broken record values, each with the reason it must be refused for.

For a stream with the channels `temp` and `flow`; the record key is `key-1` unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamrnn.records import Reason

RECORD_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Plain:
    """A record as a transport gives it."""

    value: bytes | None
    offset: int = 0
    key: bytes | None = b"key-1"
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = "ticks"
    partition: int = 3
    timestamp: int = 1_764_000_000_000


def wide(temp: bytes, ts: bytes = b"1764000000000", series: bytes = b'"p"') -> bytes:
    return b'{"series":%s,"ts":%s,"values":{"temp":%s,"flow":1.5}}' % (series, ts, temp)


GOOD = wide(b"21.5")

# (name, value, reason)
POISON: list[tuple[str, bytes | None, Reason]] = [
    ("tombstone", None, "tombstone"),
    # Size
    ("one byte over the limit", GOOD + b" " * (RECORD_BYTES_MAX + 1 - len(GOOD)), "too-large"),
    ("ten megabytes", b"[" * 10_000_000, "too-large"),
    # Syntax and encoding
    ("empty", b"", "malformed"),
    ("blanks", b"  \n", "malformed"),
    ("byte order mark", b"\xef\xbb\xbf" + GOOD, "malformed"),
    ("utf-16", GOOD.decode().encode("utf-16"), "malformed"),
    ("binary", bytes(range(256)), "malformed"),
    ("avro-like", b"\x00\x00\x00\x00\x07\x0cpump-7", "malformed"),
    ("truncated", GOOD[:-1], "malformed"),
    ("truncated in a name", GOOD[:9], "malformed"),
    ("truncated after an astral character", rb'{"series":"\ud83d\ude00', "malformed"),
    ("trailing bytes", GOOD + b"x", "malformed"),
    ("two documents", GOOD + b"\n" + GOOD, "malformed"),
    ("single quotes", b"{'series':'p'}", "malformed"),
    ("comment", b"{/**/}", "malformed"),
    ("trailing comma", b'{"series":"p",}', "malformed"),
    ("leading zero", wide(b"01"), "malformed"),
    ("plus sign", wide(b"+1"), "malformed"),
    ("hexadecimal", wide(b"0x1F"), "malformed"),
    ("bad escape", wide(b"1", series=rb'"\q"'), "malformed"),
    ("bad UTF-8 in the series", wide(b"1", series=b'"\xff\xfe"'), "malformed"),
    ("surrogate as UTF-8", wide(b"1", series=b'"\xed\xa0\x80"'), "malformed"),
    ("raw NUL in the series", wide(b"1", series=b'"p\x00"'), "malformed"),
    ("nested 100,000 deep in an ignored field", b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
    ("nested 100,000 deep, not closed", b'{"x":' + b'{"a":' * 100_000, "malformed"),
    ("nested 100,000 deep at a known field", b'{"values":' + b'{"a":' * 100_000, "malformed"),
    # Types
    ("null", b"null", "type"),
    ("number", b"5", "type"),
    ("text", b'"x"', "type"),
    ("array", b"[1,2]", "type"),
    ("deep array", b"[" * 100_000, "type"),
    ("number as text", wide(b'"21.5"'), "type"),
    ("true as number", wide(b"true"), "type"),
    ("array as number", wide(b"[1]"), "type"),
    ("object as number", wide(b"{}"), "type"),
    ("values an array", b'{"series":"p","ts":1,"values":[1,2]}', "type"),
    ("values a number", b'{"series":"p","ts":1,"values":3}', "type"),
    ("series a boolean", wide(b"1", series=b"true"), "type"),
    ("series an object", wide(b"1", series=b"{}"), "type"),
    ("long value as text", b'{"series":"p","ts":1,"channel":"temp","value":"1"}', "type"),
    ("long channel a number", b'{"series":"p","ts":1,"channel":1,"value":1}', "unknown-channel"),
    # Range
    ("NaN literal", wide(b"NaN"), "range"),
    ("nan literal", wide(b"nan"), "range"),
    ("Infinity literal", wide(b"Infinity"), "range"),
    ("-Infinity literal", wide(b"-Infinity"), "range"),
    ("1e400", wide(b"1e400"), "range"),
    ("-1e400", wide(b"-1e400"), "range"),
    ("400 digits", wide(b"9" * 400), "range"),
    ("5,000 digits", wide(b"9" * 5_000), "range"),
    ("1e39, an infinity in 32 bits", wide(b"1e39"), "range"),
    ("1e308", wide(b"1e308"), "range"),
    ("just beyond the bound", wide(b"1" + b"0" * 29 + b"1e1"), "range"),
    ("just below the bound", wide(b"-1.000000000000001e30"), "range"),
    ("long value beyond the bound", b'{"series":"p","ts":1,"channel":"temp","value":1e31}', "range"),
    ("bad second channel", b'{"series":"p","ts":1,"values":{"temp":1,"flow":1e39}}', "range"),
    ("empty series", wide(b"1", series=b'""'), "range"),
    ("NUL in the series", wide(b"1", series=rb'"p\u0000"'), "range"),
    ("newline in the series", wide(b"1", series=rb'"p\nq"'), "range"),
    ("escape sequence in the series", wide(b"1", series=rb'"\u001b[31m"'), "range"),
    ("C1 control in the series", wide(b"1", series=rb'"p\u009b"'), "range"),
    ("line separator in the series", wide(b"1", series=rb'"p\u2028"'), "range"),
    ("right-to-left override in the series", wide(b"1", series=rb'"p\u202e"'), "range"),
    ("lone high surrogate", wide(b"1", series=rb'"\ud800"'), "range"),
    ("lone low surrogate", wide(b"1", series=rb'"\udc00"'), "range"),
    ("two high surrogates", wide(b"1", series=rb'"\ud800\ud800"'), "range"),
    ("lone surrogate at the very end", rb'{"series":"\ud800"}', "range"),
    ("series of 4 KiB", wide(b"1", series=b'"' + b"a" * 4096 + b'"'), "range"),
    ("257 bytes of series", wide(b"1", series=b'"' + b"a" * 257 + b'"'), "range"),
    ("129 two-byte characters of series", wide(b"1", series='"{}"'.format("é" * 129).encode()), "range"),
    # Contract
    ("empty object", b"{}", "no-values"),
    ("no values", b'{"series":"p","ts":1764000000000}', "no-values"),
    ("values null", b'{"series":"p","ts":1764000000000,"values":null}', "no-values"),
    ("empty values", b'{"series":"p","ts":1764000000000,"values":{}}', "no-values"),
    ("only unknown channels", b'{"series":"p","ts":1764000000000,"values":{"speed":1}}', "no-values"),
    ("long without a value", b'{"series":"p","ts":1764000000000,"channel":"temp"}', "no-values"),
    ("unknown channel", b'{"series":"p","ts":1764000000000,"channel":"speed","value":1}', "unknown-channel"),
    ("hostile channel", b'{"channel":"%s","value":1}' % (b"<script>" * 1000), "unknown-channel"),
    # Time
    ("ts a word", wide(b"1", ts=b'"yesterday"'), "timestamp"),
    ("ts a year", wide(b"1", ts=b'"2026"'), "timestamp"),
    ("ts a date", wide(b"1", ts=b'"2026-11-23"'), "timestamp"),
    ("ts without an offset", wide(b"1", ts=b'"2026-11-23T15:00:00"'), "timestamp"),
    ("ts in month 13", wide(b"1", ts=b'"2026-13-01T00:00:00Z"'), "timestamp"),
    ("ts an empty text", wide(b"1", ts=b'""'), "timestamp"),
    ("ts true", wide(b"1", ts=b"true"), "timestamp"),
    ("ts an object", wide(b"1", ts=b"{}"), "timestamp"),
    ("ts of 40 digits", wide(b"1", ts=b"9" * 40), "timestamp"),
    ("ts of 5,000 digits", wide(b"1", ts=b"9" * 5_000), "timestamp"),
    ("nanoseconds for milliseconds", wide(b"1", ts=b"1764000000000000000"), "timestamp"),
    ("ts an endless exponent", wide(b"1", ts=b"1e999999999"), "timestamp"),
    ("ts beyond 64 bits", wide(b"1", ts=b"9223372036854775808"), "timestamp"),
]

# Odd, but readable: the contract says so. (name, value)
HARMLESS: list[tuple[str, bytes]] = [
    ("duplicate keys, the last wins", b'{"series":"x","series":"p","ts":1764000000000,"values":{"temp":1}}'),
    ("a million elements in an ignored field", GOOD[:-1] + b',"x":[' + b"1," * 500_000 + b"1]}"),
    ("an ignored field beyond every range", GOOD[:-1] + b',"x":1e999}'),
    ("ignored fields of the wrong kind", GOOD[:-1] + b',"meta":{"series":5},"unit":[null]}'),
    ("exactly the size limit", GOOD + b" " * (RECORD_BYTES_MAX - len(GOOD))),
    ("negative zero and underflow", wide(b"-1e-400")),
    ("the bound itself", wide(b"1e30")),
    ("an octet counter of 64 bits", wide(b"18446744073709551615")),
    ("a fraction of a millisecond", wide(b"1", ts=b"1764000000000.25")),
    ("a time with 5,000 digits behind the point", wide(b"1", ts=b"1764000000000." + b"3" * 5_000)),
    ("a time with an endless negative exponent", wide(b"1", ts=b"1e-999999999")),
    ("times before 1970 and year one are for the grid to judge", wide(b"1", ts=b"-1")),
    ("year one", wide(b"1", ts=b'"0001-01-01T00:00:00+23:59"')),
    ("markup in the series is only text", wide(b"1", series=b'"<script>alert(1)</script>../../etc"')),
    ("an astral character in the series", wide(b"1", series=rb'"\ud83d\ude00"')),
    ("year 9999 is for the engine to refuse", wide(b"1", ts=b'"9999-12-31T23:59:59Z"')),
]
