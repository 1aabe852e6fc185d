"""The configuration: one typed, frozen tree from YAML files, the environment and flags, in rising order of precedence.

Unknown keys are errors with a suggestion, all errors are reported at once, and no message shows a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from streamrnn.calendar import Align, CalendarStep, parse_step, zone_of
from streamrnn.durations import format_ms, parse_ms
from streamrnn.experts import EXPERTS_MEMORY_MAX, SEASONAL, experts_setting, written_experts
from streamrnn.inputs import InputTopics, inputs_of
from streamrnn.learning import LearnSpec
from streamrnn.meaning import Meaning, meaning_of
from streamrnn.memory import exact_bytes, parse_bytes
from streamrnn.season import Season, SeasonSetting, season_of, season_setting
from streamrnn.spec import (
    PAST_MAX_MS,
    Cell,
    Complete,
    Duplicates,
    Head,
    Layout,
    ModelSpec,
    OutputFormat,
    OutputSpec,
    StreamSpec,
    Within,
)
from streamrnn.transports.base import TopicNeed
from streamrnn.transports.registry import RegistrySettings, plain_url
from streamrnn.wire.codec import Decoder
from streamrnn.wire.elements import mapping_text
from streamrnn.wire.mapping import DecodeSpec, Format
from streamrnn.wire.passed import PassedDecoder
from streamrnn.wire.presets import PRESETS, with_preset
from streamrnn.wire.schemas import available

if TYPE_CHECKING:
    from streamrnn.stream.choice import Choice
    from streamrnn.transports.kafka.settings import KafkaSettings

ENV_PREFIX = "STREAMRNN__"
# What a list looks like where another value stands.
LISTS = {"channels": "[temp, flow]", "quantiles": "[0.05, 0.5, 0.95]", "horizons": "[1, 6, 12]", "calendar": "[1d, 1w]"}
# Settings that are taken from the environment letter by letter: read as YAML, `a #b` would lose its end.
LITERAL = ("sasl_plain_username", "sasl_plain_password", "ssl_password", "username", "password")


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every fault with its key and what to do."""


def _duration(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("write a duration such as 250ms, 1s, 15m or 1d")
    return parse_ms(str(value))


# Durations are written `250ms`, `1s`, `15m`, `1d` and held in milliseconds.
Duration = Annotated[int, BeforeValidator(_duration)]


def _memory(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("write an amount of memory such as 1GiB or 512MB")
    return parse_bytes(str(value))


# Amounts of memory are written `1GiB`, `512MB` and held in bytes.
Memory = Annotated[int, BeforeValidator(_memory)]


def _switch(value: Any) -> Any:
    """YAML reads a bare `off` as false and `on` as true."""
    return {False: "off", True: "auto"}.get(value, value) if isinstance(value, bool) else value


def _on_off(value: Any) -> Any:
    return {False: "off", True: "on"}.get(value, value) if isinstance(value, bool) else value


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise ValueError("a channel is named twice")
    if not all(value):
        raise ValueError("a channel's name is empty")
    return value


def _input(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        entries: tuple[Any, ...] = (value,)
    elif isinstance(value, (list, tuple)):
        entries = tuple(value)
    else:
        entries = (value,)
    for entry in entries:
        if isinstance(entry, (bool, int, float, date)) or entry is None:
            raise ValueError(_misread(entry))
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError("write a topic, a list of topics such as [a, b], or a pattern such as '^sensors\\..*'")
    inputs_of(entries)
    return entries[0] if len(entries) == 1 else entries


def _input_written(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _levels(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0.0 < q < 1.0 for q in value) or list(value) != sorted(set(value)):
        raise ValueError("quantiles must rise, each between 0 and 1")
    return value


def _rising(value: tuple[int, ...]) -> tuple[int, ...]:
    if list(value) != sorted(set(value)):
        raise ValueError("steps ahead must rise, such as [1, 6, 12]")
    return value


def _zone(value: str) -> str:
    zone_of(value)
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Section):
    """Kafka's own names; dots instead of underscores are accepted."""

    bootstrap_servers: str = "localhost:9092"
    client_id: str = "streamrnn"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    sasl_plain_password_file: Path | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_password: SecretStr | None = None
    allow_sasl_plaintext: bool = False
    request_timeout_ms: Annotated[int, Field(ge=1000)] = 20_000
    metadata_max_age_ms: Annotated[int, Field(ge=500)] = 30_000
    session_timeout_ms: Annotated[int, Field(ge=500)] = 10_000
    heartbeat_interval_ms: Annotated[int, Field(ge=100)] = 3_000
    rebalance_timeout_ms: Annotated[int, Field(ge=1000)] = 60_000
    max_poll_interval_ms: Annotated[int, Field(ge=1000)] = 300_000
    transaction_timeout_ms: Annotated[int, Field(ge=1000)] = 60_000
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_committed"
    group_instance_id: str | None = None
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    fetch_max_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    max_partition_fetch_bytes: Annotated[int, Field(ge=1024)] = 2 * 1024 * 1024
    batch_bytes_max: Annotated[int, Field(ge=1024)] = 900_000
    in_flight_bytes_max: Annotated[int, Field(ge=1_000_000)] = 64 * 1024 * 1024

    @model_validator(mode="before")
    @classmethod
    def _dots(cls, value: Any) -> Any:
        return {str(k).replace(".", "_"): v for k, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _sasl(self) -> Kafka:
        if self.security_protocol.startswith("SASL"):
            if self.sasl_plain_username is None:
                raise ValueError("sasl_plain_username is needed with security_protocol " + self.security_protocol)
            if (self.sasl_plain_password is None) == (self.sasl_plain_password_file is None):
                raise ValueError("give sasl_plain_password_file (or sasl_plain_password by environment), one of them")
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most half of session_timeout_ms")
        return self


class Registry(_Section):
    """Where the schemas of Avro, JSON Schema and Protobuf are."""

    url: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ssl_cafile: Path | None = None

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        return plain_url(value) if value is not None else None

    @model_validator(mode="after")
    def _whole(self) -> Registry:
        if self.url is None and any(value is not None for value in self.model_dump().values()):
            raise ValueError("url is needed, such as http://localhost:8081")
        if self.username is not None and (self.password is None) == (self.password_file is None):
            raise ValueError("give password_file (or password by environment) with username, one of them")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise ValueError("username is needed with a password")
        return self


class Topics(_Section):
    forecasts: str = ""
    imputed: str = ""
    dlq: str = ""
    models: str = ""
    state: str = ""
    ticks: str = ""  # between the two stages of `repartition: on`
    inputs: str = ""  # of several input topics: which partition of `state` is whose

    def names(self) -> list[str]:
        """The topics this version of the service writes or follows, whatever its input."""
        return [self.forecasts, self.imputed, self.dlq, self.models, self.state]


# The defaults of the network are those of `ModelSpec`, here and in the back-test.
MODEL = ModelSpec((), ())


class Model(_Section):
    cell: Cell = "gru"
    trunk: Annotated[int, Field(ge=1, le=1024)] = MODEL.trunk  # width of the two layers before the recurrent ones
    hidden: Annotated[int, Field(ge=1, le=1024)] = MODEL.hidden
    layers: Annotated[int, Field(ge=1, le=8)] = MODEL.layers
    conv: Annotated[int, Field(ge=0, le=64)] = (
        MODEL.conv
    )  # taps of a causal convolution before the recurrent layers; 0: none
    head: Head = MODEL.head
    layer_norm: bool = MODEL.layer_norm
    dropout: Annotated[float, Field(ge=0, lt=1)] = MODEL.dropout


# The defaults of learning are those of `LearnSpec`, here and in the back-test; these of its fields can be set.
LEARN = LearnSpec()
TRAINED = ("chunk_len", "burn_in", "length", "batch_series", "lr", "weight_decay", "clip_norm", "seed")
LEARNED = ("window", "holdout", "series_max", "updates", "min_steps", "drift")


class Learn(_Section):
    interval: Duration = 30_000
    ticks: Annotated[int, Field(ge=1)] = 200_000
    # Steps over all series before the first network is trained.
    min_steps: Annotated[int, Field(ge=1)] = LEARN.min_steps
    budget: Duration = 20_000  # wall clock of one round's training
    updates: Annotated[int, Field(ge=1)] | None = (
        LEARN.updates
    )  # gradient steps of one round at most; null: by the horizon
    window: Annotated[int, Field(ge=64)] = LEARN.window  # steps kept per series
    series_max: Annotated[int, Field(ge=1)] = LEARN.series_max
    holdout: Annotated[int, Field(ge=8)] = LEARN.holdout  # newest steps never trained on, for the gate
    chunk_len: Annotated[int, Field(ge=1)] = LEARN.train.chunk_len
    burn_in: Annotated[int, Field(ge=0)] = LEARN.train.burn_in
    length: Annotated[int, Field(ge=2)] = LEARN.train.length
    batch_series: Annotated[int, Field(ge=1)] = LEARN.train.batch_series
    lr: Annotated[float, Field(gt=0)] = LEARN.train.lr
    weight_decay: Annotated[float, Field(ge=0)] = LEARN.train.weight_decay
    clip_norm: Annotated[float, Field(gt=0)] = LEARN.train.clip_norm
    drift: bool = LEARN.drift
    history: Annotated[int, Field(ge=0)] = 500_000  # records before the end of the topic read at the start
    keep: Annotated[int, Field(ge=2)] = 5  # versions kept in the models topic
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as there are cores, less one
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    idle: bool = True  # runs only while nobody else wants the processor (Linux); false: by `nice` alone
    memory_max_mb: Annotated[int, Field(ge=256)] = 4096
    silence_max: Duration = 120_000  # a trainer that says nothing for so long is killed
    swap_min: Duration = 10_000  # least time between two weights coming into use; an operator's rollback does not wait
    rollback_hold: Duration = 600_000  # nothing is published for so long after an operator's rollback
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    seed: int = LEARN.train.seed

    def spec(self) -> LearnSpec:
        """For the learner; what has no setting is as `LearnSpec` has it."""
        train = {name: getattr(self, name) for name in TRAINED}
        learn = {name: getattr(self, name) for name in LEARNED}
        return replace(LEARN, train=replace(LEARN.train, **train), **learn)


class Checkpoint(_Section):
    """When a partition's changed states are written to the changelog: what a restart has to replay.

    After `interval` or `records`, whichever comes first, as far as `bytes_per_second` permits; after `interval_max` in any
    case.
    """

    interval: Annotated[Duration, Field(ge=10)] = 10_000
    records: Annotated[int, Field(ge=1)] = 100_000
    # What a worker writes on average, before compression, at most; beyond it checkpoints come more seldom. 0: no budget.
    bytes_per_second: Annotated[int, Field(ge=0)] = 600_000
    interval_max: Annotated[Duration, Field(ge=10)] = 60_000

    @model_validator(mode="after")
    def _bounds(self) -> Checkpoint:
        if self.interval_max < self.interval:
            if "interval_max" in self.model_fields_set:
                raise ValueError("interval_max must be at least interval")
            # Frozen for users; a default that depends on `interval` is settled here, once.
            object.__setattr__(self, "interval_max", self.interval)
        return self


class Http(_Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    token_file: Path | None = None
    # /readyz is 503 while more of a partition's records than this share were refused in the last minute; 1: never for that.
    ready_refused_max: Annotated[float, Field(gt=0, le=1)] = 0.5


class Log(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


_Scalar = bool | int | float | str | None
_Many = Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]


class Decode(_Section):
    """Where people's own records hold what the contract names: `mapping.DecodeSpec`, which says what each key means.

    A preset sets what is not written down here. Without `series` and `ts` the contract's fields count, and where they are
    missing the record's key and timestamp.
    """

    preset: str | None = None
    format: Format = "json"
    each: str | _Many | None = None
    where: dict[str, _Scalar | tuple[_Scalar, ...]] | None = None
    unwrap: str | None = None
    series: str | tuple[str | _Many, ...] | None = None
    ts: str | _Many | None = None
    ts_unit: Literal["s", "ms", "us", "ns"] = "ms"
    ts_format: str | None = None
    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    numbers: Literal["strict", "text", "decimal"] = "strict"
    decimal: Literal[".", ","] = "."
    scale: int | dict[str, int] | None = None
    values: str | dict[str, str | _Many] | None = None
    channel: str | None = "channel"
    value: str | _Many | None = "value"
    others: Literal["refuse", "skip"] = "refuse"
    tombstones: Literal["refuse", "skip"] = "refuse"
    leading: Literal["refuse", "skip"] = "refuse"
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)] | None = None
    separator: str = ","
    elements_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    record_bytes_max: Annotated[int, Field(ge=64)] = 1024 * 1024
    series_bytes_max: Annotated[int, Field(ge=1, le=4096)] = 256
    value_abs_max: Annotated[float, Field(gt=0, le=1e300)] = 1e30  # larger values are refused

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None or value in PRESETS:
            return value
        near = difflib.get_close_matches(value, PRESETS, n=1)
        raise ValueError(f"no such preset; did you mean {near[0]}?" if near else f"one of {', '.join(sorted(PRESETS))}")

    def spec(self, channels: tuple[str, ...]) -> DecodeSpec:
        """With the preset. Raises ValueError."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return DecodeSpec(**{name: _tupled(value) for name, value in with_preset(given, channels).items()})


def _tupled(value: Any) -> Any:
    """Lists as tuples: what is read from YAML, and what presets hold."""
    if isinstance(value, Mapping):
        return {key: _tupled(each) for key, each in value.items()}
    return tuple(_tupled(each) for each in value) if isinstance(value, list | tuple) else value


class Output(_Section):
    """How forecasts and imputations are written: `spec.OutputSpec`. `timestamp`: the time that such a record carries, the present
    or the event time that it is about."""

    timestamp: Literal["now", "event"] = "now"
    layout: Layout = "nested"
    horizons: (
        Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), AfterValidator(_rising)] | None
    ) = None
    format: OutputFormat = "json"

    def spec(self) -> OutputSpec:
        return OutputSpec(self.layout, self.horizons or (), self.format)


class Settings(BaseSettings):
    """The whole configuration. Fields without a default must be given."""

    # Defaults are written in milliseconds, as durations are held, and so not read as what a user writes.
    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=False)

    app: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "streamrnn"
    kafka: Kafka = Kafka()
    # A topic, a list of them, or a pattern that begins with `^`.
    input: Annotated[str | tuple[str, ...], PlainValidator(_input), PlainSerializer(_input_written, when_used="json")]
    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=256), AfterValidator(_names)]
    step: str
    horizon: Annotated[int, Field(ge=1, le=1000)]
    quantiles: Annotated[tuple[float, ...], Field(min_length=1), AfterValidator(_levels)] = (0.05, 0.5, 0.95)
    topics: Topics = Topics()
    within: Within = "one"
    complete: Complete = "record"
    duplicates: Duplicates = "keep"
    align: Align = "floor"
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    lateness: Duration = 0
    idle_after: Duration = 60_000
    gap_max: Annotated[int, Field(ge=0)] = 64
    future_max: Duration = 60_000
    past_max: Annotated[Duration, Field(ge=1)] = PAST_MAX_MS
    calendar: tuple[Duration, ...] = ()
    season: Annotated[
        SeasonSetting, PlainValidator(season_setting), PlainSerializer(SeasonSetting.plain, when_used="json")
    ] = SeasonSetting()
    experts: Annotated[
        str | tuple[str, ...], PlainValidator(experts_setting), PlainSerializer(written_experts, when_used="json")
    ] = "auto"
    # Of memory, for the experts of `series_max` series: with `experts: auto` no more are chosen than fit.
    experts_memory_max: Annotated[Memory, Field(ge=0)] = EXPERTS_MEMORY_MAX
    forecast_every: Annotated[int, Field(ge=1)] = 1
    imputed: Literal["gaps", "all"] = "gaps"
    delivery: Literal["at-least-once", "exactly-once"] = "at-least-once"
    start: Literal["earliest", "latest"] = "earliest"
    train: Annotated[Literal["auto", "off"], BeforeValidator(_switch)] = "auto"
    # Ticks go through a topic of the service's own, keyed by series.
    repartition: Annotated[Literal["on", "off"], BeforeValidator(_on_off)] = "off"
    model: Model = Model()
    learn: Learn = Learn()
    # Without effect: states begin at zero when weights change. Configurations of earlier versions have it.
    burn_in: Annotated[int, Field(ge=1)] = 64
    warm_up: Annotated[int, Field(ge=1)] = 64
    series_max: Annotated[int, Field(ge=1)] = 10_000
    pending_max: Annotated[int, Field(ge=1)] = 1024
    batch_records_max: Annotated[int, Field(ge=1)] = 2000
    poll_timeout: Duration = 100
    commit_interval: Duration = 100  # at least once: what a crash repeats the outputs of
    delivery_timeout: Duration = 30_000
    stall_after: Annotated[Duration, Field(ge=1000)] = 30_000  # a partition with records that gives none: clients anew
    shutdown_grace: Duration = 15_000
    checkpoint: Checkpoint = Checkpoint()
    decode: Decode = Decode()
    registry: Registry = Registry()
    http: Http = Http()
    log: Log = Log()
    output: Output = Output()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: files, environment and flags are merged there, in one place."""
        return (init_settings,)

    @model_validator(mode="after")
    def _together(self) -> Settings:
        faults: list[str] = []
        try:
            step_ms = self.step_ms
            if self.step.strip() != "irregular" and step_ms < 1:
                faults.append("step: must be at least 1ms, or irregular")
        except ValueError as error:
            step_ms = 1
            faults.append(f"step: {error}; or write irregular, 1mo, 1y")
        if "idle_after" not in self.model_fields_set:
            # Frozen for users; a default that depends on the step is settled here, once.
            object.__setattr__(self, "idle_after", max(self.idle_after, 3 * step_ms + self.lateness))
        elif step_ms and self.idle_after < step_ms + self.lateness:
            faults.append("idle_after: must be at least step + lateness, or every series looks idle")
        if not faults:
            try:
                self.seasons()
            except ValueError as error:
                faults.append(f"season: {error}")
        if self.repartition == "on" and self.decode_spec().format == "sparkplug":
            faults.append(
                "repartition: on is not possible with decode.format: sparkplug, whose aliases are kept with the states"
            )
        if self.past_max <= self.future_max:
            faults.append("past_max: must be more than future_max")
        if self.learn.window < self.learn.length + 2 * self.learn.holdout:
            faults.append("learn.window: must hold learn.length and twice learn.holdout")
        faults += self._output_faults()
        if not faults:
            try:
                decoder = Decoder(self.stream_spec(), self.decode_spec())
                if decoder.schemas is not None and decoder.schemas.asks and self.registry.url is None:
                    faults.append(f"registry.url: is needed for decode.format: {self.decode_spec().format}")
            except (ValueError, TypeError) as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))
        for kind in Topics.model_fields:
            if not getattr(self.topics, kind):
                # Frozen for users; defaults that depend on `app` are settled here, once.
                object.__setattr__(self, "topics", self.topics.model_copy(update={kind: f"{self.app}.{kind}"}))
        return self

    def _output_faults(self) -> Iterator[str]:
        output = self.output
        if output.horizons and output.horizons[-1] > self.horizon:
            yield f"output.horizons: {output.horizons[-1]} is beyond horizon: {self.horizon}"
        if output.layout == "flat" and len(self.quantiles) < 2:
            yield "output.layout: flat needs two quantiles or more: the outer ones are yhat_lower and yhat_upper"
        if output.format != "json":
            if self.registry.url is None:
                yield f"registry.url: is needed for output.format: {output.format}"
            if wanting := available(output.format):
                yield f"output.format: {output.format} needs more packages: {wanting}"

    # ── for the floors below ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def written_inputs(self) -> InputTopics:
        """What `input` says."""
        return inputs_of(self.input)

    @property
    def inputs(self) -> InputTopics:
        """What series' states are of: what `input` says, or the topic between the stages."""
        return InputTopics((self.topics.ticks,)) if self.repartition == "on" else self.written_inputs

    @property
    def several_inputs(self) -> bool:
        return not self.inputs.one

    def own_topics(self) -> list[str]:
        """All that a pattern does not mean."""
        between = [self.topics.ticks] if self.repartition == "on" else []
        return [*self.topics.names(), self.topics.inputs, *between]

    @property
    def first_group(self) -> str:
        """The consumer group of the first stage."""
        return f"{self.app}.repartition"

    def decoder(self) -> Decoder:
        """Of what series' states are made of."""
        spec = self.stream_spec()
        if self.repartition == "on":
            return PassedDecoder(spec, repeats=self.delivery == "at-least-once")
        return Decoder(spec, self.decode_spec())

    @property
    def step_ms(self) -> int:
        """0 is irregular; the mean length of a calendar step."""
        return parse_step(self.step, self.timezone)[0]

    @property
    def calendar_step(self) -> CalendarStep | None:
        return parse_step(self.step, self.timezone)[1]

    @property
    def poll_timeout_ms(self) -> int:
        return self.poll_timeout

    @property
    def delivery_timeout_s(self) -> float:
        return self.delivery_timeout / 1000

    @property
    def shutdown_grace_s(self) -> float:
        return self.shutdown_grace / 1000

    def seasons(self) -> tuple[Season, ...]:
        """What repeats in a stream of this step. Raises ValueError."""
        return season_of(self.season, self.step_ms, self.calendar_step, self.horizon)

    def expert_choice(self) -> Choice:
        """Which experts there are, and why."""
        from streamrnn.stream.choice import choose  # brings the compiled loops

        return choose(self.experts, self._stream_spec(), self.experts_memory_max)

    def forecasting(self) -> dict[str, Any]:
        """What forecasts are made by, and why: for people, and for scripts."""
        spec, choice = self.stream_spec(), self.expert_choice()
        return {
            "season": [season.name for season in spec.seasons],
            "season_setting": self.season.plain(),
            "experts": list(choice.experts),
            "experts_setting": written_experts(self.experts),
            "experts_chosen": choice.kind,
            "experts_why": choice.why,
            "experts_series_bytes": choice.series_bytes,
            "experts_bytes": choice.series_bytes * self.series_max,
        }

    def stream_spec(self) -> StreamSpec:
        return replace(self._stream_spec(), experts=self.expert_choice().experts)

    def _stream_spec(self) -> StreamSpec:
        return StreamSpec(
            channels=self.channels,
            step_ms=self.step_ms,
            horizon=self.horizon,
            quantiles=self.quantiles,
            within=self.within,
            lateness_ms=self.lateness,
            idle_after_ms=self.idle_after,
            gap_max=self.gap_max,
            future_max_ms=self.future_max,
            warm_up=self.warm_up,
            series_max=self.series_max,
            pending_max=self.pending_max,
            calendar_ms=self.calendar,
            forecast_every=self.forecast_every,
            impute_all=self.imputed == "all",
            calendar_step=self.calendar_step,
            timezone=self.timezone,
            align=self.align,
            complete=self.complete,
            duplicates=self.duplicates,
            past_max_ms=self.past_max,
            seasons=self.seasons(),
        )

    def model_spec(self) -> ModelSpec:
        from streamrnn.kernels.columns import rungs_of
        from streamrnn.stream.forecasting import inputs_of  # brings the compiled loops

        spec = self.stream_spec()
        return ModelSpec(
            inputs=tuple(inputs_of(spec)),
            rungs=rungs_of(spec.horizon),
            cell=self.model.cell,
            trunk=self.model.trunk,
            hidden=self.model.hidden,
            layers=self.model.layers,
            layer_norm=self.model.layer_norm,
            dropout=self.model.dropout,
            conv=self.model.conv,
            head=self.model.head,
        )

    def decode_spec(self) -> DecodeSpec:
        return self.decode.spec(self.channels)

    def meaning(self) -> Meaning:
        """What the numbers of states and weights mean."""
        decode = self.decode_spec()
        values = mapping_text(decode, self.channels) if decode.values is not None else None
        value = " or ".join(decode.value) if isinstance(decode.value, tuple) else decode.value
        return meaning_of(self.stream_spec(), decode.ts_unit, values, value)

    def kafka_settings(self) -> KafkaSettings:
        """Connection settings with their secrets. Raises ConfigError when a secret's file cannot be read."""
        from streamrnn.transports.kafka.settings import KafkaSettings  # aiokafka is not needed to check a file

        kafka = self.kafka
        if kafka.sasl_plain_password_file is not None:
            try:
                kafka.sasl_plain_password_file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise ConfigError(f"kafka.sasl_plain_password_file: cannot be read ({reason})") from error
        values = kafka.model_dump(exclude={"sasl_plain_password", "ssl_password"})
        for name in ("sasl_plain_password_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            values[name] = None if values[name] is None else str(values[name])
        values["compression_type"] = None if kafka.compression_type == "none" else kafka.compression_type
        return KafkaSettings(
            sasl_plain_password=kafka.sasl_plain_password.get_secret_value() if kafka.sasl_plain_password else None,
            ssl_password=kafka.ssl_password.get_secret_value() if kafka.ssl_password else None,
            delivery_timeout_ms=self.delivery_timeout,
            **values,
        )

    def registry_settings(self) -> RegistrySettings | None:
        """None where there is no registry. Raises ConfigError when the password's file cannot be read."""
        registry = self.registry
        if registry.url is None:
            return None
        password = registry.password.get_secret_value() if registry.password is not None else None
        if registry.password_file is not None:
            try:
                password = registry.password_file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise ConfigError(f"registry.password_file: cannot be read ({reason})") from None
        cafile = str(registry.ssl_cafile) if registry.ssl_cafile is not None else None
        return RegistrySettings(registry.url, registry.username, password, cafile)

    def http_token(self) -> str | None:
        """What a client must show. Raises ConfigError when its file cannot be read, or holds nothing."""
        path = self.http.token_file
        if path is None:
            return None
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"http.token_file: cannot be read ({reason})") from None
        if not token:
            raise ConfigError("http.token_file: is empty")
        return token

    def topic_needs(self, partitions: int) -> list[TopicNeed]:
        """The service's own topics, for an input of so many partitions."""
        plain: dict[str, str] = {}
        # Of the event times that their input has, which bounds its own times as it will.
        any_time = {"message.timestamp.after.max.ms": str(2**63 - 1), "message.timestamp.before.max.ms": str(2**63 - 1)}
        outputs = any_time if self.output.timestamp == "event" else plain
        compact = {"cleanup.policy": "compact"}
        return [
            TopicNeed(self.topics.forecasts, partitions, outputs),
            TopicNeed(self.topics.imputed, partitions, outputs),
            TopicNeed(self.topics.dlq, partitions, plain),
            TopicNeed(self.topics.models, 1, compact),
            # Small segments and an early cleaner: a restart reads what has not been compacted, too. But not so early that
            # a record which a worker evicted from its group still had in flight removes a newer state's before the owner
            # has seen it and written the state once more (`checkpoint.Checkpointer`).
            TopicNeed(
                self.topics.state,
                partitions,
                {
                    **compact,
                    "segment.bytes": "67108864",
                    "min.cleanable.dirty.ratio": "0.3",
                    "min.compaction.lag.ms": "60000",
                },
            ),
            *([TopicNeed(self.topics.ticks, partitions, any_time)] if self.repartition == "on" else []),
            *([TopicNeed(self.topics.inputs, 1, compact)] if self.several_inputs else []),
        ]

    def topic_operations(self, inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What the worker's user must be permitted, by topic, where these are the input's; its trainer is the same user."""
        topics = self.topics
        return {
            **dict.fromkeys(inputs, ("Read",)),
            **({topics.ticks: ("Read", "Write")} if self.repartition == "on" else {}),
            **({topics.inputs: ("Read", "Write")} if self.several_inputs else {}),
            **dict.fromkeys((topics.forecasts, topics.imputed, topics.dlq), ("Write",)),
            topics.models: ("Read", "Write") if self.train == "auto" else ("Read",),
            topics.state: ("Read", "Write"),
        }

    def groups(self) -> tuple[str, ...]:
        """The consumer groups of the worker, and of the trainer that it starts."""
        first = (self.first_group,) if self.repartition == "on" else ()
        return (self.app, *first, *((f"{self.app}.trainer",) if self.train == "auto" else ()))

    def hints(self) -> list[str]:
        """What is set and has no effect in a worker of this configuration; no reason not to start."""
        found = []
        if "burn_in" in self.model_fields_set:
            found.append("burn_in: has no effect any more: states begin at zero when weights change; remove it")
        if self.train == "off" and "model" in self.model_fields_set:
            found.append(
                "model: has no effect beside train: off: what is served is of the kind that `streamrnn train` made, whose "
                "configuration says which"
            )
        chosen = self.expert_choice().experts
        if isinstance(self.experts, tuple) and (idle := [n for n in self.experts if n in SEASONAL and n not in chosen]):
            found.append(
                f"experts: {', '.join(idle)}: without effect where there is no `season`, or no whole number of steps in it"
            )
        if self.season.holidays and self.season.holidays[-1] < datetime.now(UTC).date():
            found.append(
                f"season.holidays: none has an effect any more, the last is {self.season.holidays[-1]}: days to come are taken "
                "for what their weekday says"
            )
        return found

    def effective(self) -> dict[str, Any]:
        """Everything as it is in force, secrets masked, durations as they are written."""
        shown: dict[str, Any] = self.model_dump(mode="json")
        for path in _durations(type(self)):
            at = shown
            for part in path[:-1]:
                at = at[part]
            value = at[path[-1]]
            at[path[-1]] = [format_ms(v) for v in value] if isinstance(value, list) else format_ms(value)
        if self.decode.preset is not None:  # read again, a null would override what the preset says
            shown["decode"] = {
                key: value for key, value in shown["decode"].items() if key in self.decode.model_fields_set
            }
        shown["experts_memory_max"] = exact_bytes(self.experts_memory_max)
        return shown


def _durations(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for rest in _durations(annotation):
                yield (name, *rest)
        elif any(isinstance(m, BeforeValidator) and m.func is _duration for m in info.metadata) or name == "calendar":
            yield (name,)


# What reading YAML can raise: its own errors, and those of the types that it makes of words (`2026-13-45`).
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, OverflowError)
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
SURROGATE = re.compile("[\ud800-\udfff]")
# A configuration of 256 channels, each mapped to a field, has fewer.
VALUES_MAX = 10_000


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def load(
    files: Sequence[Path] = (), overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings from files (later ones win), the environment and `overrides` (dotted keys). Raises ConfigError."""
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, _read(path))
    known = os.environ if environment is None else environment
    _refuse_single_underscores(known)
    for name, value in sorted(known.items()):
        if name.startswith(ENV_PREFIX):
            path_to = name.removeprefix(ENV_PREFIX).lower().split("__")
            _put(merged, path_to, value if path_to[-1] in LITERAL else _scalar(value))
    for key, value in (overrides or {}).items():
        _put(merged, key.split("."), _scalar(value) if isinstance(value, str) else value)
    _check_plain(merged, "the configuration")
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(_told(error)) from None


def _refuse_single_underscores(environment: Mapping[str, str]) -> None:
    """STREAMRNN_HORIZON is nothing to anybody, and who sets it means STREAMRNN__HORIZON. Raises ConfigError.

    What Kubernetes says of a service of that name (STREAMRNN_HTTP_PORT=tcp://…) means something else.
    """
    meant = {"_".join(path).upper(): path for path in _paths(Settings)}
    faults = [
        f"  {name}: is ignored with one underscore; write {ENV_PREFIX}{'__'.join(meant[rest]).upper()}"
        for name in sorted(environment)
        if name.startswith(ENV_PREFIX[:-1])
        and not name.startswith(ENV_PREFIX)
        and (rest := name.removeprefix(ENV_PREFIX[:-1]).replace("__", "_").upper()) in meant
        and "://" not in environment[name]
    ]
    if faults:
        raise ConfigError("\n".join(["the environment cannot be used:", *faults]))


def _paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every setting by its path."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from ((name, *rest) for rest in _paths(info.annotation))
        else:
            yield (name,)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UNREADABLE as error:
        # Without the error itself as the cause: it quotes the line, and a secret may stand there.
        raise ConfigError(f"{path}: not YAML: {_yaml_fault(error)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(document).__name__}")
    _check_plain(document, str(path))
    return document


def _yaml_fault(error: Exception) -> str:
    """What is wrong and where, without the text itself."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "a value that cannot be read" if not isinstance(error, UnicodeError) else "it is not UTF-8"
    mark = error.problem_mark
    if mark is not None and r"'\t'" in (error.problem or ""):
        return f"a tab: write spaces (line {mark.line + 1}, column {mark.column + 1})"
    # Some problems quote a word of the text.
    problem = QUOTED.sub("…", error.problem or "it cannot be read")
    return problem + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else "")


def _check_plain(document: Any, where: str) -> None:
    """YAML can write what no configuration is: keys that are no words, half characters, sections that hold themselves.

    Raises ConfigError.
    """
    waiting: list[tuple[str, Any]] = [("", document)]
    count = 0
    while waiting:
        (at, value), count = waiting.pop(), count + 1
        if count > VALUES_MAX:  # by anchors and aliases, a few lines say a billion
            raise ConfigError(f"{where}: more than {VALUES_MAX} values, or a section that holds itself")
        if isinstance(value, dict):
            if odd := [key for key in value if not isinstance(key, str)]:
                shown = f" in {SURROGATE.sub('?', at)}" if at else ""
                raise ConfigError(f"{where}: a key{shown}: {_misread(odd[0])}")
            waiting += [(at, key) for key in value]
            waiting += [(f"{at}.{key}" if at else key, below) for key, below in value.items()]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(at, below) for below in value]
        elif isinstance(value, str) and SURROGATE.search(value):
            raise ConfigError(f"{where}: half a character (a lone surrogate)")


def _misread(value: Any) -> str:
    """What YAML made of a word that stands for a text, without the word itself."""
    if isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f"YAML reads the words {words} as {str(value).lower()}: write it in quotes"
    made = "a number" if isinstance(value, (int, float)) else "nothing" if value is None else "a date"
    return f"must be a text, and YAML reads it as {made}: write it in quotes"


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _put(into: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        into = into.setdefault(part, {})
        if not isinstance(into, dict):
            raise ConfigError(f"{'.'.join(path)}: {part} holds a value, not a section")
    into[path[-1]] = value


def _scalar(text: str) -> Any:
    """Values from the environment and flags are YAML too: numbers, lists, words."""
    try:
        value = yaml.safe_load(text)
    except UNREADABLE:
        return text
    return text if value is None else value


# What pydantic puts into a location where a value may be of one of several types.
OF_A_UNION = re.compile(
    r"(?:str|bool|int|float|none)$|(?:dict|tuple|list|function-\w+|constrained-\w+|lax-or-strict)\["
)


def _settled(errors: Sequence[Any]) -> Iterator[Any]:
    """One error for each place: where several types are possible, that of the innermost that was meant."""
    of_unions: dict[tuple[str, ...], list[Any]] = {}
    for item in errors:
        loc = item["loc"]
        if len(loc) < 3 or loc[0] != "decode" or not any(OF_A_UNION.match(str(part)) for part in loc[2:]):
            yield item
            continue
        plain = tuple(part for at, part in enumerate(loc) if at < 2 or not OF_A_UNION.match(str(part)))
        of_unions.setdefault(plain[:2], []).append({**item, "loc": plain})
    for found in of_unions.values():
        deepest = max(len(item["loc"]) for item in found)
        inner = [item for item in found if len(item["loc"]) == deepest]
        yield next((item for item in inner if item["type"] != "string_type" or _is_plain(item)), inner[0])


def _told(error: ValidationError) -> str:
    lines = ["the configuration cannot be used:"]
    for item in _settled(error.errors(include_url=False, include_context=False)):  # what was put in is never shown
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys_at(item["loc"][:-1]), n=1)
            lines.append(f"  {where}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"  {where}: is needed")
        elif item["type"] == "string_type" and _is_plain(item):
            lines.append(f"  {where}: {_misread(item['input'])}")
        elif item["type"] == "tuple_type":
            lines.append(f"  {where}: write a list, such as {LISTS.get(str(item['loc'][-1]), '[a, b]')}")
        elif item["type"] in ("model_type", "dict_type"):
            lines.append(f"  {where}: write a section with keys and values, such as {{key: value}}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines += (
                [f"  {where + ': ' if where else ''}{part}" for part in message.split("\n")]
                if not where
                else [f"  {where}: {message}"]
            )
    return "\n".join(lines)


def _is_plain(item: Any) -> bool:
    """Whether an error is about a single value that is no secret."""
    return item["loc"][-1] not in LITERAL and not isinstance(item["input"], (Mapping, list, tuple, set))


def _keys_at(path: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        info = model.model_fields.get(str(part))
        if info is None or not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            return []
        model = info.annotation
    return list(model.model_fields)
