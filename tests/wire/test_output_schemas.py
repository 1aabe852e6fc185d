"""What the service writes beside plain JSON, read by the official libraries: values equal bit for bit, of any shape of stream."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import fastavro
import jsonschema
import numpy as np
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import Registered, serving

from streamrnn.calendar import milliseconds, parse_step
from streamrnn.records import ForecastBatch, ImputationBatch, TickBatch
from streamrnn.spec import OutputSpec, StreamSpec
from streamrnn.wire.encode import Encoder, encoder_for
from streamrnn.wire.output_schemas import WHATS, definition, source_in, subject_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IDS = {"forecasts": 7, "imputed": 70_000}
FRAMES = {what: b"\x00" + struct.pack(">I", id) for what, id in IDS.items()}
names = st.text(min_size=1, max_size=8).map(lambda name: name.encode("utf-8", "ignore").decode() or "x")
doubles = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[StreamSpec, OutputSpec]:
    step = draw(st.sampled_from(["1s", "250ms", "1h", "1mo", "1d", "irregular"]))
    step_ms, calendar = parse_step(step, "Europe/London")
    horizon = draw(st.integers(1, 5))
    levels = draw(st.sampled_from([(0.05, 0.95), (0.05, 0.5, 0.95), (0.001, 0.25, 0.5, 0.75, 0.99)]))
    channels = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
    spec = StreamSpec(channels, step_ms, horizon, levels, calendar_step=calendar, timezone="Europe/London")
    horizons = draw(st.sets(st.integers(1, horizon)))
    layout, format = draw(st.sampled_from(["nested", "flat"])), draw(st.sampled_from(["json", "avro", "json-schema"]))
    return spec, OutputSpec(layout, tuple(sorted(horizons)), format)


@st.composite
def batches(draw: st.DrawFn, spec: StreamSpec) -> tuple[ForecastBatch, ImputationBatch, TickBatch]:
    count, width, levels = draw(st.integers(1, 3)), len(spec.channels), len(spec.quantiles)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def numbers(*shape: int) -> Any:
        made = rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 12, shape)
        flat = made.ravel()
        flat[: min(4, flat.size)] = draw(st.lists(doubles, min_size=4, max_size=4))[: flat.size]
        return made

    mean = numbers(count, width, spec.horizon)
    unseen = rng.random((count, width)) < 0.2
    mean[unseen] = np.nan
    quantiles = np.sort(numbers(count, width, levels, spec.horizon), axis=2)
    grid, at = spec.grid(), draw(st.integers(0, 4_000_000_000_000_000))
    cutoffs = np.array([at + i if spec.irregular else grid.start_us(grid.index(at) + i) for i in range(count)])
    steps = np.full(count, 1_234_567 if spec.irregular else grid.step_us)
    series, tick = draw(st.lists(names, min_size=count, max_size=count)), np.arange(count)
    scale = np.ones((count, width), dtype=np.float32)
    forecasts = ForecastBatch(tick, series, cutoffs, steps, mean, quantiles, scale, rng.random(count) < 0.5, "3f1c")
    values, filled = numbers(count, width), rng.random((count, width)) < 0.5
    values[unseen], filled[unseen] = np.nan, False
    kind = rng.integers(0, 3, count).astype(np.uint8)
    bounds = numbers(count, width), numbers(count, width)
    imputations = ImputationBatch(tick, series, cutoffs, values, filled, *bounds, scale, kind)
    index = rng.integers(-1, 3, count) if draw(st.booleans()) else np.empty(0, np.int64)
    ticks = TickBatch(
        records=[], partition=np.full(count, 3, np.int32), offset=np.arange(count) + 2**40,
        record_ts_ms=np.zeros(count, np.int64),
        series=series, ts_us=cutoffs, values=values, channel=np.full(count, -1, np.int16), index=index.astype(np.int32),
    )  # fmt: skip
    return forecasts, imputations, ticks


def by_fastavro(spec: StreamSpec, output: OutputSpec, what: Any, value: bytes) -> Any:
    assert value[:5] == FRAMES[what]
    stream = io.BytesIO(value[5:])
    found = fastavro.schemaless_reader(stream, json.loads(definition(spec, output, what).text))
    assert not stream.read()
    return found


def by_json(spec: StreamSpec, output: OutputSpec, what: Any, value: bytes) -> Any:
    if output.format == "json":
        return json.loads(value)
    assert value[:5] == FRAMES[what]
    found = json.loads(value[5:])
    jsonschema.validate(found, json.loads(definition(spec, output, what).text))
    return found


def moment(value: Any) -> int:
    """µs since 1970."""
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else round(value * 1000)


def same(shown: Any, value: float, exact: bool) -> bool:
    """To the last bit, or to the digits that a scale of 1 is worth."""
    if exact or shown is None:
        return shown == value or (not math.isfinite(value) and (shown is None or math.isnan(shown)))
    return bool(abs(shown - value) <= 0.0005000001 + math.ulp(value))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_shape_of_stream_is_read_back_as_the_engine_had_it(data: st.DataObject) -> None:
    spec, output = data.draw(shapes())
    forecasts, imputations, ticks = data.draw(batches(spec))
    nested, flat = encoder_for(spec, "in", output, IDS if output.format != "json" else {})
    exact, steps = output.format == "avro", output.horizons or range(1, spec.horizon + 1)
    read = partial(by_fastavro if exact else by_json, spec, output)
    source = source_in(spec, output)
    places = ticks.index.tolist() if len(ticks.index) else [-1] * len(forecasts)
    grid = spec.grid()
    if flat is None:
        written = nested.forecasts(forecasts, ticks)
        assert len(written) == len(forecasts)
        for i, value in enumerate(written):
            found = read("forecasts", value)
            assert source("forecasts", value, ()) == ("in", 3, 2**40 + i, places[i])
            assert (found["series"], found["model"], found["warm"]) == (
                forecasts.series[i],
                "3f1c",
                bool(forecasts.warm[i]),
            )
            assert moment(found["ts"]) == forecasts.ts_us[i]
            assert found["step_ms"] == milliseconds(int(forecasts.step_us[i]))
            assert tuple(found.get("horizons") or ()) == output.horizons
            seen = [c for c in range(len(spec.channels)) if not np.isnan(forecasts.mean[i, c, 0])]
            assert list(found["channels"]) == [spec.channels[c] for c in seen]
            for c in seen:
                channel = found["channels"][spec.channels[c]]
                assert [float(level) for level in channel["quantiles"]] == list(spec.quantiles)
                rows = [(channel["mean"], forecasts.mean[i, c])]
                rows += list(zip(channel["quantiles"].values(), forecasts.quantiles[i, c], strict=True))
                for shown, wanted in rows:
                    assert len(shown) == len(steps)
                    assert all(same(x, float(wanted[h - 1]), exact) for x, h in zip(shown, steps, strict=True))
    else:
        sent = flat.forecasts(forecasts, ticks)
        rows = iter(zip(sent.values, sent.rows.tolist(), sent.headers, strict=True))
        for i in range(len(forecasts)):
            for c, name in enumerate(spec.channels):
                if np.isnan(forecasts.mean[i, c, 0]):
                    continue
                for h in steps:
                    value, of, headers = next(rows)
                    found = read("forecasts", value)
                    assert of == i and source("forecasts", value, headers) == ("in", 3, 2**40 + i, places[i])
                    assert dict(headers)["streamrnn-model"] == b"3f1c"
                    assert dict(headers)["streamrnn-warm"] == (b"true" if forecasts.warm[i] else b"false")
                    assert list(found) == [
                        "unique_id",
                        "ds",
                        "cutoff",
                        "h",
                        "yhat",
                        "yhat_lower",
                        "yhat_upper",
                        "level",
                    ]
                    assert (found["unique_id"], found["h"]) == (f"{forecasts.series[i]}/{name}", h)
                    cutoff = int(forecasts.ts_us[i])
                    ahead = cutoff + h * int(forecasts.step_us[i])
                    if spec.calendar_step is not None:
                        ahead = grid.start_us(grid.index(cutoff) + h)
                    assert (moment(found["cutoff"]), moment(found["ds"])) == (cutoff, ahead)
                    assert found["level"] == pytest.approx(100 * (spec.quantiles[-1] - spec.quantiles[0]))
                    quantiles = forecasts.quantiles[i, c]
                    wanted = (forecasts.mean[i, c], quantiles[0], quantiles[-1])
                    for key, values in zip(("yhat", "yhat_lower", "yhat_upper"), wanted, strict=True):
                        assert same(found[key], float(values[h - 1]), exact)
        assert next(rows, None) is None
    for i, value in enumerate(nested.imputations(imputations, ticks)):
        found = read("imputed", value)
        assert source("imputed", value, ()) == ("in", 3, 2**40 + i, places[i])
        assert (found["series"], moment(found["ts"])) == (imputations.series[i], imputations.ts_us[i])
        assert found["kind"] == ("missing-channel" if imputations.kind[i] == 0 else "missing-tick")
        filled = imputations.filled[i]
        assert list(found["values"]) == list(spec.channels)
        assert list(found["imputed"]) == [name for c, name in enumerate(spec.channels) if filled[c]]
        for c, name in enumerate(spec.channels):
            assert same(found["values"][name], float(imputations.values[i, c]), exact or not filled[c])
            if filled[c]:
                assert same(found["imputed"][name]["lower"], float(imputations.lower[i, c]), exact)
                assert same(found["imputed"][name]["upper"], float(imputations.upper[i, c]), exact)


SPEC = StreamSpec(("temp", "flow"), 1000, 3)


def one(spec: StreamSpec = SPEC) -> tuple[ForecastBatch, TickBatch]:
    mean = np.arange(2.0 * spec.horizon).reshape(1, 2, spec.horizon) / 3
    quantiles = np.stack([mean - 0.1, mean, mean + 0.1], axis=2)
    scale, warm = np.full((1, 2), 0.01, np.float32), np.ones(1, np.bool_)
    at, step = np.array([1_764_000_000_000_000]), np.array([1_000_000])
    forecasts = ForecastBatch(np.zeros(1, np.int64), ["pump-7"], at, step, mean, quantiles, scale, warm, "3f1c")
    ticks = TickBatch(
        [],
        np.full(1, 3, np.int32),
        np.full(1, 9),
        np.zeros(1, np.int64),
        ["pump-7"],
        at,
        mean[:, :, 0],
        np.full(1, -1, np.int16),
    )
    return forecasts, ticks


def test_a_flat_record_is_what_sinks_and_notebooks_know() -> None:
    forecasts, ticks = one()
    _, flat = encoder_for(SPEC, "in", OutputSpec("flat", (1, 3)), {})
    assert flat is not None
    values = flat.forecasts(forecasts, ticks).values
    assert values[0] == (
        b'{"unique_id":"pump-7/temp","ds":1764000001000,"cutoff":1764000000000,"h":1,"yhat":0.0,"yhat_lower":-0.1,'
        b'"yhat_upper":0.1,"level":90}'
    )
    assert [json.loads(value)["h"] for value in values] == [1, 3, 1, 3]


def test_what_is_infinite_is_no_number() -> None:
    forecasts, ticks = one()
    forecasts.mean[0, 0, 1], forecasts.quantiles[0, 1, 2, 0] = np.inf, -np.inf
    for layout in ("nested", "flat"):
        output = OutputSpec(layout, (), "avro")  # type: ignore[arg-type]
        nested, flat = encoder_for(SPEC, "in", output, IDS)
        values = flat.forecasts(forecasts, ticks).values if flat else nested.forecasts(forecasts, ticks)
        found = [by_fastavro(SPEC, output, "forecasts", value) for value in values]
        if flat:
            assert math.isnan(found[1]["yhat"]) and math.isnan(found[3]["yhat_upper"])
        else:
            assert math.isnan(found[0]["channels"]["temp"]["mean"][1])
            assert math.isnan(found[0]["channels"]["flow"]["quantiles"]["0.95"][0])


def test_the_plain_form_is_byte_for_byte_what_it_was() -> None:
    forecasts, ticks = one()
    nested, flat = encoder_for(SPEC, "in", OutputSpec(), {})
    assert flat is None
    assert nested.forecasts(forecasts, ticks) == Encoder(SPEC, "in").forecasts(forecasts, ticks)
    framed = encoder_for(SPEC, "in", OutputSpec(format="json-schema"), IDS)[0].forecasts(forecasts, ticks)
    assert framed == [FRAMES["forecasts"] + value for value in nested.forecasts(forecasts, ticks)]


# ── the official deserializers ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def registered() -> Iterator[Registered]:
    with serving() as found:
        yield found


@pytest.mark.parametrize("layout", ["nested", "flat"])
@pytest.mark.parametrize("format", ["avro", "json-schema"])
def test_confluents_deserializers_read_it_by_the_registered_schema(
    registered: Registered, layout: Any, format: Any
) -> None:
    output, client = OutputSpec(layout, (), format), SchemaRegistryClient({"url": registered.url})
    ids = {
        what: registered.register(subject_of(f"app.{what}"), _posted(definition(SPEC, output, what)))["id"]
        for what in WHATS
    }
    forecasts, ticks = one()
    nested, flat = encoder_for(SPEC, "in", output, ids)  # type: ignore[arg-type]
    values = flat.forecasts(forecasts, ticks).values if flat else nested.forecasts(forecasts, ticks)
    if format == "avro":
        read: Any = AvroDeserializer(client)
    else:
        read = JSONDeserializer(None, schema_registry_client=client)
    found = read(values[0], SerializationContext("app.forecasts", MessageField.VALUE))
    if flat:
        assert (found["unique_id"], found["h"], found["level"]) == ("pump-7/temp", 1, 90)
        assert moment(found["ds"]) == 1_764_000_001_000_000
    else:
        assert list(found["channels"]) == ["temp", "flow"] and moment(found["ts"]) == 1_764_000_000_000_000
        assert found["source"]["offset"] == 9


def _posted(schema: Any) -> dict[str, Any]:
    return {"schema": schema.text, "schemaType": schema.kind}


def test_a_schema_says_nothing_of_channels_or_quantiles() -> None:
    """So that another configuration of the stream needs no other one."""
    other = StreamSpec(("x",), 60_000, 96, (0.1, 0.9))
    for format in ("avro", "json-schema"):
        for layout in ("nested", "flat"):
            output = OutputSpec(layout, (), format)  # type: ignore[arg-type]
            for what in WHATS:
                assert definition(SPEC, output, what) == definition(other, OutputSpec(layout, (1,), format), what)  # type: ignore[arg-type]
                fine = definition(StreamSpec(("x",), 0, 3), output, what)
                # Another unit of time is another record: a registry does not take it for compatible.
                assert json.loads(fine.text).get("name", json.loads(fine.text).get("title")).endswith("AtMicroseconds")
