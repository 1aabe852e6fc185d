"""Event times as they are written, to microseconds since 1970: what is finer is cut off, and nothing is guessed."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from streamrnn.records import Reason
from streamrnn.wire.mapping import TsUnit

# What a JSON decoder can raise on hostile bytes: syntax and type errors, bad UTF-8, an ignored field nested too deep.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS: dict[TsUnit, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}

_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_US = timedelta(microseconds=1)
_PLACES = {1_000_000_000: 6, 1_000_000: 3}  # decimal places of a microsecond
_INSTANT = msgspec.json.Decoder(Annotated[datetime, Meta(tz=True)])
# "2026-11-27T12:00:05.123456Z": only a longer text can have more than microseconds, or an offset instead of the Z.
_INSTANT_CHARS = 27
_BELOW_MICROSECONDS = re.compile(r"(?<=\.[0-9]{6})[0-9]+")
# The same instants as databases, Java and the basic format of ISO 8601 write them: offsets +00 and +0100, a blank before them,
# UTC; no seconds where they are zero (Java's OffsetDateTime); a comma for the point; the zone's name after the offset (RFC 9557).
_OFFSET = r" ?(Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)(?:\[[A-Za-z0-9_+/-]{1,40}\])?"
_OTHERWISE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?" + _OFFSET, re.ASCII
)
_BASIC = re.compile(r"([0-9]{8})[Tt]([0-9]{2})([0-9]{2})(?:([0-9]{2})(?:[.,]([0-9]+))?)?" + _OFFSET, re.ASCII)
_OTHERWISE_CHARS_MAX = 96
# What is written longer, or with a larger exponent, is no time that anybody measured.
_NUMBER_CHARS_MAX, _EXPONENT_MAX = 64, 64
# Texts of fewer digits are years and dates.
_DIGITS_LEAST = 9
_NUMBER = re.compile(r"[+-]?[0-9]{9,}(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LOCAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?", re.ASCII)


class Refused(Exception):
    """Carries a refusal from where it is found to the loop that collects it; never leaves the decoder."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def short(thing: object) -> str:
    """A bounded, printable ASCII picture of something that came from outside."""
    if isinstance(thing, int):
        return str(thing) if abs(thing) < 10**30 else "a number of more than 30 digits"
    text = str(thing)
    return ascii(text if len(text) <= 40 else text[:40] + "…")


class TextTimes:
    """How texts are read: RFC 3339 with an offset, digits of the unit, `ts_format`, local times of `timezone`."""

    def __init__(self, unit: TsUnit, form: str | None = None, zone: ZoneInfo | None = None) -> None:
        self._ns, self._form, self._zone = NS[unit], form, zone
        if form is not None:
            _check_form(form)

    def us(self, text: str) -> int:
        """Microseconds since 1970. Raises Refused."""
        if self._form is not None:
            return self._formatted(text)
        if _DIGITS_LEAST <= len(text) <= _NUMBER_CHARS_MAX and text.isascii() and text.isdigit():
            return number_us(text.encode(), self._ns)
        try:
            return text_us(text)
        except Refused:
            if len(text) <= _NUMBER_CHARS_MAX and _NUMBER.fullmatch(text):
                return number_us(text.encode(), self._ns)
            if len(text) <= _NUMBER_CHARS_MAX and _LOCAL.fullmatch(text):
                try:
                    moment = datetime.fromisoformat(_six_digits(text))
                except ValueError as error:  # a leap second, the 30th of February
                    raise Refused("timestamp", f"{short(text)} is no time that there is: {error}") from None
                return self._local(moment, text)
            raise

    def _formatted(self, text: str) -> int:
        try:
            moment = datetime.strptime(text, self._form or "")  # noqa: DTZ007
        except ValueError:
            raise Refused(
                "timestamp", f"{short(text)} is not written as decode.ts_format {self._form!r} says"
            ) from None
        if moment.tzinfo is None:
            return self._local(moment, text)
        return (moment - EPOCH) // _US

    def local_us(self, us: int) -> int:
        """Of microseconds on the clock of the place. Raises Refused."""
        try:
            moment = _NAIVE_EPOCH + timedelta(microseconds=us)
        except OverflowError:
            raise Refused("timestamp", f"{short(us)} µs is beyond the years that there are") from None
        return self._local(moment, f"{moment:%Y-%m-%d %H:%M:%S}")

    def _local(self, moment: datetime, text: str) -> int:
        zone = self._zone
        if zone is None:
            raise Refused(
                "timestamp",
                f"{short(text)} is not RFC 3339 with an offset: say decode.timezone, such as Europe/London",
            )
        try:
            early, late = ((moment.replace(tzinfo=zone, fold=fold) - EPOCH) // _US for fold in (0, 1))
        except (ValueError, OverflowError):
            raise Refused("timestamp", f"{short(text)} is beyond the years that there are") from None
        if early != late:
            back = (EPOCH + timedelta(microseconds=early)).astimezone(zone).replace(tzinfo=None)
            how = "happens twice in" if back == moment else "does not exist in"
            raise Refused(
                "timestamp", f"{short(text)} {how} {zone.key} (clocks are set): write times with their offset"
            )
        return early


def _check_form(form: str) -> None:
    """Raises ValueError where no text at all could be read."""
    hint = "write it as Python's strptime reads it, such as %Y-%m-%d %H:%M:%S"
    try:
        datetime.strptime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(form), form)  # noqa: DTZ007
    except (ValueError, IndexError, re.error) as error:
        raise ValueError(f"decode: ts_format {form!r} cannot be read ({error}): {hint}") from None
    if "%" not in form:
        raise ValueError(f"decode: ts_format {form!r} has no field of a time: {hint}")


def _six_digits(text: str) -> str:
    whole, _, fraction = text.replace(",", ".").partition(".")
    return f"{whole}.{fraction[:6].ljust(6, '0')}" if fraction else whole


def text_us(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 text with an offset; digits beyond the sixth are cut off. Raises Refused."""
    cut = _BELOW_MICROSECONDS.sub("", text) if len(text) > _INSTANT_CHARS else text
    try:
        since = _INSTANT.decode(f'"{cut}"') - EPOCH
    except (*UNREADABLE, ValueError, OverflowError):
        written = _rfc_3339(text)
        if written is not None and written != text:
            return text_us(written)
        if written is not None:
            raise Refused(
                "timestamp", f"{short(text)} is no time that there is: a day, an hour or a second too many (decode.ts)"
            ) from None
        raise Refused(
            "timestamp", f"{short(text)} is not RFC 3339 with an offset, and not a number (decode.ts)"
        ) from None
    us: int = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return us


def _rfc_3339(text: str) -> str | None:
    """The same instant in the letters of RFC 3339; None where it is not written in one of the ways that leave nothing open."""
    if len(text) > _OTHERWISE_CHARS_MAX:
        return None
    match = _OTHERWISE.fullmatch(text) or _BASIC.fullmatch(text)
    if match is None:
        return None
    day, hours, minutes, seconds, fraction, offset = match.groups()
    if len(day) == len("20251124"):
        day = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    if offset[0] in "+-":
        offset = f"{offset[:3]}:{offset[3:].lstrip(':') or '00'}"
    else:
        offset = "Z"
    return f"{day}T{hours}:{minutes}:{seconds or '00'}{'.' + fraction[:6] if fraction else ''}{offset}"


def number_us(text: bytes, ns: int) -> int:
    """Microseconds of a JSON number of units of `ns` nanoseconds: exactly what is written, cut off.

    A double would not do: of 1764000005.999999999 it is 1764000006.
    """
    if text.isdigit() and len(text) < 20:
        return int(text) * ns // 1000
    whole, _, fraction = text.partition(b".")
    places = _PLACES.get(ns, 0)
    if places and whole.isdigit() and fraction.isdigit() and len(text) <= _NUMBER_CHARS_MAX:
        return int(whole + fraction[:places].ljust(places, b"0"))
    if len(text) <= _NUMBER_CHARS_MAX:
        sign, digits, exponent = Decimal(text.decode()).as_tuple()
        if isinstance(exponent, int) and abs(exponent) <= _EXPONENT_MAX:
            count = int("".join(map(str, digits))) * ns * (-1 if sign else 1)
            return count * int(10**exponent) // 1000 if exponent >= 0 else count // int(1000 * 10**-exponent)
    number = float(text)
    if not math.isfinite(number):
        raise Refused("timestamp", f"{short(text.decode())} is not a time (decode.ts)")
    up, down = number.as_integer_ratio()
    return up * ns // (down * 1000)
