"""Forecasts and imputations on the wire: valid JSON, the contract's fields, numbers right to the digits promised."""

from __future__ import annotations

import gc
import json
import math
import sys
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.kernels.text import decimals_of
from streamrnn.records import ForecastBatch, ImputationBatch, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.wire.encode import Encoder, _quoted

SPEC = StreamSpec(channels=("temp", 'fl"ow\n'), step_ms=1000, horizon=3, quantiles=(0.05, 0.5, 0.95))


def ticks(count: int) -> TickBatch:
    return TickBatch(
        records=[],
        partition=np.full(count, 3, dtype=np.int32),
        offset=np.arange(81_231, 81_231 + count, dtype=np.int64),
        record_ts_ms=np.zeros(count, dtype=np.int64),
        series=["s"] * count,
        ts_us=np.zeros(count, dtype=np.int64),
        values=np.zeros((count, 2)),
        channel=np.full(count, -1, dtype=np.int16),
    )


def forecasts(series: list[str], mean: Any, quantiles: Any, scale: Any) -> ForecastBatch:
    count = len(series)
    return ForecastBatch(
        tick=np.arange(count),
        series=series,
        ts_us=np.full(count, 1_764_000_000_000_000),
        step_us=np.full(count, 1_000_000),
        mean=np.asarray(mean, dtype=np.float64),
        quantiles=np.asarray(quantiles, dtype=np.float64),
        scale=np.asarray(scale, dtype=np.float32),
        warm=np.arange(count) % 2 == 0,
        model="3f1c",
    )


finite = st.floats(-1e15, 1e15, allow_nan=False)
sizes = st.floats(1e-25, 1e9)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4),
    st.lists(finite, min_size=96, max_size=96),
    st.lists(sizes, min_size=8, max_size=8),
)
def test_every_document_parses_and_every_number_is_within_its_last_digit(
    series: list[str], numbers: list[float], scales: list[float]
) -> None:
    series = [name.encode("utf-8", "ignore").decode() or "x" for name in series]
    count = len(series)
    pool = np.array(numbers)
    scale = np.array(scales, dtype=np.float32).reshape(4, 2)[:count]
    # Half of the values are of the scale's own size: the usual case.
    pool[::2] = np.sign(pool[::2]) * (np.abs(pool[::2]) % 100) * np.resize(scale, 48)
    mean = pool[: count * 6].reshape(count, 2, 3)
    quantiles = pool[: count * 18].reshape(count, 2, 3, 3)
    documents = Encoder(SPEC, "ticks").forecasts(forecasts(series, mean, quantiles, scale), ticks(count))
    for i, document in enumerate(documents):
        parsed = json.loads(document)
        assert list(parsed) == ["series", "ts", "step_ms", "channels", "model", "warm", "source"]
        assert parsed["series"] == series[i]
        assert parsed["warm"] is (i % 2 == 0)
        assert parsed["source"] == {"topic": "ticks", "partition": 3, "offset": 81_231 + i}
        assert (parsed["ts"], parsed["step_ms"], parsed["model"]) == (1_764_000_000_000, 1000, "3f1c")
        for c, name in enumerate(SPEC.channels):
            digit = 10.0 ** -decimals_of(float(scale[i, c]))
            channel = parsed["channels"][name]
            assert list(channel["quantiles"]) == ["0.05", "0.5", "0.95"]
            pairs = [(channel["mean"], mean[i, c])]
            pairs += [(values, quantiles[i, c, q]) for q, values in enumerate(channel["quantiles"].values())]
            for shown, wanted in pairs:
                for got, value in zip(shown, wanted, strict=True):
                    # Half a digit, and what a float of that size cannot distinguish.
                    assert abs(got - value) <= 0.5000001 * digit + math.ulp(value)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=24, max_size=24),
    st.lists(st.floats(1.5e-45, 3e38), min_size=2, max_size=2),
    st.lists(st.integers(-30, 305), min_size=24, max_size=24),
)
def test_every_finite_number_reads_back_within_its_last_digit(
    numbers: list[float], scales: list[float], powers: list[int]
) -> None:
    """Wei and picofarads alike: whatever the sizes of value and scale, never another number."""
    pool = np.array([value if i % 2 else math.frexp(value)[0] * 10.0 ** powers[i] for i, value in enumerate(numbers)])
    scale = np.array([scales], dtype=np.float32)
    mean, quantiles = pool[:6].reshape(1, 2, 3), pool[6:].reshape(1, 2, 3, 3)
    parsed = json.loads(Encoder(SPEC, "t").forecasts(forecasts(["s"], mean, quantiles, scale), ticks(1))[0])
    for c, name in enumerate(SPEC.channels):
        digit = 10.0 ** -decimals_of(float(scale[0, c]))
        channel = parsed["channels"][name]
        pairs = [(channel["mean"], mean[0, c])]
        pairs += [(values, quantiles[0, c, q]) for q, values in enumerate(channel["quantiles"].values())]
        for shown, wanted in pairs:
            for got, value in zip(shown, wanted.tolist(), strict=True):
                assert abs(float(got) - value) <= 0.5000001 * digit + math.ulp(value), (got, value)


def test_wei_are_written_as_wei() -> None:
    values = [[[28524228757025110097920.0, -1e300, 9007199254740993.0], [1e20, 9.0e18, -9223372036854775808.0]]]
    batch = forecasts(["s"], values, np.full((1, 2, 3, 3), 2e22), [[1e21, 0.5]])
    channels = json.loads(Encoder(SPEC, "t").forecasts(batch, ticks(1))[0])["channels"]
    assert [[float(x) for x in channels[name]["mean"]] for name in SPEC.channels] == values[0]
    assert channels["temp"]["quantiles"]["0.05"] == [2e22] * 3


def test_what_is_not_finite_is_null() -> None:
    values = [[[1.0, np.nan, np.inf], [1.0, 2.0, -np.inf]]]
    batch = forecasts(["s"], values, np.ones((1, 2, 3, 3)), [[1, np.inf]])
    channels = json.loads(Encoder(SPEC, "t").forecasts(batch, ticks(1))[0])["channels"]
    assert [channels[name]["mean"] for name in SPEC.channels] == [[1.0, None, None], [1.0, 2.0, None]]


def test_numbers_have_three_digits_below_the_scale() -> None:
    values = [[[1234.56789, -0.00001, 0.25], [2e-20, -3.5e-19, 0.0]]]
    batch = forecasts(["s"], values, np.zeros((1, 2, 3, 3)), [[0.02, 2e-20]])
    text = Encoder(SPEC, "t").forecasts(batch, ticks(1))[0]
    assert b'"mean":[1234.56789,0.00000,0.25000]' in text.replace(b"-0.00001", b"0.00000")
    assert b"[2000e-23,-35000e-23,0]" in text


def test_a_channel_never_seen_is_left_out() -> None:
    mean = np.full((1, 2, 3), np.nan)
    mean[0, 1] = 5.0
    text = Encoder(SPEC, "t").forecasts(forecasts(["s"], mean, np.ones((1, 2, 3, 3)), [[1, 1]]), ticks(1))[0]
    assert list(json.loads(text)["channels"]) == [SPEC.channels[1]]


def test_many_long_documents_outgrow_the_first_buffer() -> None:
    spec = StreamSpec(channels=("a",), step_ms=1, horizon=200)
    count = 300
    batch = forecasts(
        ["s" * 50] * count, np.full((count, 1, 200), 1e14), np.ones((count, 1, 3, 200)), np.ones((count, 1))
    )
    documents = Encoder(spec, "t").forecasts(batch, ticks(count))
    assert len(documents) == count
    assert len({json.loads(document)["source"]["offset"] for document in documents}) == count


def test_an_imputation_says_what_was_filled_and_repeats_what_came() -> None:
    batch = ImputationBatch(
        tick=np.array([0, 1]),
        series=["s", "s"],
        ts_us=np.array([1_000_000, 2_000_000]),
        values=np.array([[21.4, 3.2001], [np.nan, 7.0]]),
        filled=np.array([[False, True], [False, True]]),
        lower=np.array([[0, 3.02], [0, 6.0]]),
        upper=np.array([[0, 3.37], [0, 8.0]]),
        scale=np.array([[1, 0.5], [1, 1]], dtype=np.float32),
        kind=np.array([0, 1], dtype=np.uint8),
    )
    first, second = (json.loads(text) for text in Encoder(SPEC, "t").imputations(batch, ticks(2)))
    assert first["values"] == {"temp": 21.4, SPEC.channels[1]: 3.2001}
    assert first["imputed"] == {SPEC.channels[1]: {"lower": 3.02, "upper": 3.37}}
    assert (first["kind"], second["kind"]) == ("missing-channel", "missing-tick")
    assert second["values"]["temp"] is None
    assert "temp" not in second["imputed"]


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(['a"', '",', '","', "\\", "ä", "a"]))
)
def test_names_are_quoted_one_by_one(series: list[str]) -> None:
    whole, edges = _quoted(series)
    pieces = [whole[begin:end].tobytes() for begin, end in pairwise(edges.tolist())]
    assert [json.loads(piece.removesuffix(b",")) for piece in pieces] == series
    assert all(piece.endswith(b",") for piece in pieces)
    assert b"".join(pieces) == whole.tobytes()


def test_names_that_came_once_are_not_kept() -> None:
    """Keys that come once and never again must not be what the process consists of."""
    encoder, one = Encoder(SPEC, "ticks"), np.ones((1000, 2, 3))

    def encode(turn: int) -> None:
        names = [f"new-{turn}-{i}" for i in range(1000)]
        encoder.forecasts(forecasts(names, one, np.ones((1000, 2, 3, 3)), np.ones((1000, 2))), ticks(1000))

    encode(0)
    gc.collect()
    before = sys.getallocatedblocks()
    for turn in range(1, 10):
        encode(turn)
    gc.collect()
    assert sys.getallocatedblocks() - before < 1000
