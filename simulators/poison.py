"""Records no service should fall over, with the reason a careful one gives for refusing them."""

from __future__ import annotations

POISON: tuple[tuple[bytes | None, str], ...] = (
    (None, "tombstone"),
    (b"", "malformed"),
    (b"{", "malformed"),
    (b'{"series":"x","ts":1,"values":{"temp":1.0}', "malformed"),
    (b"\xff\xfe\x00", "malformed"),
    (b"\xef\xbb\xbf{}", "malformed"),
    (b'{"a":' * 100_000, "malformed"),
    (b"[1,2,3]", "type"),
    (b'{"series":"x","ts":1764000000000,"values":{"temp":"1.0"}}', "type"),
    (b'{"series":"x","ts":1764000000000,"values":{"temp":true}}', "type"),
    (b'{"series":{"a":1},"ts":1764000000000,"values":{"temp":1}}', "type"),
    (b'{"series":"x","ts":1764000000000,"values":{"temp":NaN}}', "range"),
    (b'{"series":"x","ts":1764000000000,"values":{"temp":1e400}}', "range"),
    (b'{"series":"x","ts":1764000000000,"values":{"temp":1e39}}', "range"),
    (b'{"series":"x","ts":"yesterday","values":{"temp":1}}', "timestamp"),
    (b'{"series":"x","ts":1764000000000,"values":{}}', "no-values"),
)
