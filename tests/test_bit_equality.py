"""The comparison of two checkouts notices one bit, wherever it is, and finds none where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from bit_equality import Found, differences, lived, stream


@pytest.fixture(scope="module")
def life() -> Found:
    return lived("plain", "at-least-once", stream(100, long=False))


def flipped(value: Any) -> Any:
    """One bit of what stands at a place is another."""
    if isinstance(value, list):
        at = next(i for i, part in enumerate(value) if isinstance(part, bytes) and part)
        return [*value[:at], flipped(value[at]), *value[at + 1 :]]
    if isinstance(value, str):
        return flipped(value.encode()).decode()
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


def test_a_life_that_is_lived_again_is_the_same(life: Found) -> None:
    assert differences(life, lived("plain", "at-least-once", stream(100, long=False))) == []


@pytest.mark.parametrize("kind", ["forecasts", "fills", "dead letters", "changelog", "models", "states", "offsets"])
def test_one_flipped_bit_is_noticed_and_its_place_is_said(life: Found, kind: str) -> None:
    places = list(life[kind])
    assert places, "a life in which everything happens"
    place = places[len(places) // 2]
    other = copy.deepcopy(life)
    other[kind][place] = flipped(other[kind][place])
    [found] = differences(life, other)
    assert (found.kind, found.place, found.count) == (kind, place, 1)
    assert found.ours != found.theirs


def test_what_only_one_of_two_has_is_a_difference(life: Found) -> None:
    other = copy.deepcopy(life)
    place, _ = other["changelog"].popitem()
    [found] = differences(life, other)
    assert (found.place, found.theirs) == (place, "nothing")


def test_a_field_that_only_one_of_two_writes_is_permitted_by_its_name_alone(life: Found) -> None:
    other = copy.deepcopy(life)
    for kind, begin in (("changelog", b"{"), ("models", b"{")):
        place = next(p for p, (_, value, *_) in life[kind].items() if value and value.startswith(begin))
        value = other[kind][place][1]
        other[kind][place][1] = value[:-1] + b',"new":1}'
    assert [found.kind for found in differences(life, other)] == ["changelog", "models"]
    assert differences(life, other, frozenset({"new"})) == []
    assert len(differences(life, other, frozenset({"others"}))) == 2
    other["changelog"][place := next(iter(other["changelog"]))][2] += 1  # its time
    assert [found.place for found in differences(life, other, frozenset({"new"}))] == [place]
