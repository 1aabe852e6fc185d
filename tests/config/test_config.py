"""The configuration: the smallest file, precedence, clear errors, masked secrets."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from streamrnn.config.settings import ConfigError, load
from streamrnn.experts import SETS
from streamrnn.spec import EXPERTS
from streamrnn.transports.base import TransportError

SMALLEST = """
kafka: {bootstrap_servers: localhost:9092}
input: ticks
channels: [temp, flow]
step: 1s
horizon: 12
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(SMALLEST)
    return path


def test_the_smallest_file_is_enough(file: Path) -> None:
    settings = load([file], {}, {})
    assert settings.topics.forecasts == "streamrnn.forecasts"
    assert settings.stream_spec().step_ms == 1000
    assert settings.delivery == "at-least-once"
    assert [need.name for need in settings.topic_needs(4)] == [
        f"streamrnn.{k}" for k in ("forecasts", "imputed", "dlq", "models", "state")
    ]
    assert settings.topic_needs(4)[0].partitions == 4
    assert settings.topic_needs(4)[3].config == {"cleanup.policy": "compact"}


def test_flags_win_over_the_environment_which_wins_over_files(file: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("horizon: 20\nlateness: 2s\n")
    environment = {"STREAMRNN__HORIZON": "30", "STREAMRNN__KAFKA__CLIENT_ID": "me", "OTHER": "x"}
    settings = load([file, second], {"horizon": 40}, environment)
    assert (settings.horizon, settings.lateness, settings.kafka.client_id) == (40, 2000, "me")
    assert load([file, second], {}, environment).horizon == 30


def test_kafkas_own_spelling_and_other_shapes_are_accepted(file: Path) -> None:
    settings = load([file], {"kafka": {"bootstrap.servers": "a:1", "session.timeout.ms": 9000}, "train": False}, {})
    assert settings.kafka.bootstrap_servers == "a:1"
    assert settings.kafka_settings().session_timeout_ms == 9000
    assert settings.train == "off"
    assert load([file], {"step": "irregular"}, {}).stream_spec().irregular


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"horizn": 3}, "horizn: unknown key; did you mean horizon"),
        ({"kafka.sasl_mechansim": "PLAIN"}, "did you mean sasl_mechanism"),
        ({"step": "1 fortnight"}, "step"),
        ({"lateness": 5}, "lateness.*duration"),
        ({"quantiles": [0.9, 0.1]}, "quantiles must rise"),
        ({"channels": ["a", "a"]}, "named twice"),
        ({"idle_after": "1s", "lateness": "5s"}, "idle_after"),
        ({"delivery": "at-most-once"}, "delivery"),
        ({"timezone": "Europe/Londn"}, "timezone.*time zone"),
        ({"align": "up"}, "align"),
        ({"past_max": "1s"}, "past_max"),
        ({"step": "1.5mo"}, "step"),
        ({"horizon": 0}, "horizon"),
        ({"kafka.security_protocol": "SASL_SSL"}, "sasl_plain_username"),
        ({"model.cell": "transformer"}, "model.cell"),
        ({"model.head": "seq2seq"}, "model.head"),
        ({"model.conv": -1}, "model.conv"),
        ({"season": "dayly"}, "season: .*did you mean 1d"),
        ({"season": "1s"}, "season: 1s: a season has two steps at least"),
        ({"season": ["7d", "1d"]}, "season: .*shorter season first"),
        ({"season": "1d", "step": "irregular"}, "season: with step: irregular"),
        ({"season": {"key": "day_type", "holiday": []}}, "season: 'holiday': unknown key; did you mean holidays"),
        ({"season": {"key": "day_type"}, "step": "1w"}, "season: key: day_type: a step is a day or shorter"),
        ({"experts": "lite"}, "experts: .*did you mean light"),
        ({"experts": ["ridge"]}, "experts: .*there are season-ago"),
        ({"experts_memory_max": "1 gigabyte"}, "experts_memory_max: .*1GiB"),
        ({"experts_memory_max": -1}, "experts_memory_max"),
    ],
)
def test_faults_are_named_with_their_key(file: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load([file], change, {})


@pytest.mark.parametrize(
    ("step", "timezone", "unit", "least_days"),
    [
        ("1d", "UTC", None, 1),
        ("1d", "Europe/London", "d", 1),
        ("1w", "UTC", "w", 7),
        ("1mo", "UTC", "mo", 30),
        ("1y", "UTC", "y", 365),
    ],
)
def test_calendar_steps_are_written_as_such(
    file: Path, step: str, timezone: str, unit: str | None, least_days: int
) -> None:
    settings = load([file], {"step": step, "timezone": timezone}, {})
    spec = settings.stream_spec()
    assert (spec.calendar_step.unit if spec.calendar_step else None) == unit
    assert spec.step_ms >= least_days * 86_400_000
    # Where nothing is said of it, a series may miss a step or two before it counts as silent.
    assert spec.idle_after_ms >= 2 * spec.step_ms
    assert load([], settings.effective(), {}).stream_spec() == spec


@pytest.mark.parametrize(
    ("season", "names"),
    [
        ("auto", ["1d", "7d"]),
        ("off", []),
        (False, []),
        ("1d", ["1d"]),
        ("[1d, 1w]", ["1d", "7d"]),
        (["8h", "1d"], ["8h", "1d"]),
        ({"key": "day_type", "holidays": [date(2099, 12, 25)]}, ["day_type"]),
    ],
)
def test_seasons_are_those_of_the_step_or_as_they_are_named(file: Path, season: Any, names: list[str]) -> None:
    settings = load([file], {"step": "1h", "season": season, "timezone": "Europe/London"}, {})
    spec = settings.stream_spec()
    assert [each.name for each in spec.seasons] == names
    assert spec.experts == (EXPERTS if names else ("moves", "stack"))
    assert load([], settings.effective(), {}).stream_spec() == spec
    assert load([], json.loads(json.dumps(settings.effective())), {}).season == settings.season
    assert settings.hints() == []


def test_a_season_in_files_and_the_environment(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "season.yaml"
    other.write_text(
        "step: 1h\nseason:\n  key: day_type\n  holidays: [2099-12-25, 2099-01-01]\nexperts_memory_max: 1MiB\n"
    )
    (season,) = load([file, other], {}, {}).stream_spec().seasons
    assert season.holidays == tuple((date(2099, m, d) - date(1970, 1, 1)).days for m, d in ((1, 1), (12, 25)))
    environment = {"STREAMRNN__SEASON": "[1d, 7d]", "STREAMRNN__EXPERTS": "off", "STREAMRNN__EXPERTS_MEMORY_MAX": "2GB"}
    settings = load([file, other], {}, environment)
    assert [each.name for each in settings.seasons()] == ["1d", "7d"]
    assert settings.stream_spec().experts == () and settings.experts_memory_max == 2_000_000_000
    with pytest.raises(ConfigError, match="STREAMRNN__EXPERTS_MEMORY_MAX"):
        load([file], {}, {"STREAMRNN_EXPERTS_MEMORY_MAX": "2GB"})


def test_experts_are_as_many_as_memory_allows(file: Path) -> None:
    hours = {"step": "1h", "channels": ["a", "b", "c", "d"]}
    for series_max, kind in ((10_000, "full"), (100_000, "light"), (10_000_000, "off")):
        settings = load([file], {**hours, "series_max": series_max}, {})
        assert settings.stream_spec().experts == SETS[kind] and settings.expert_choice().kind == kind
        assert settings.effective()["experts"] == "auto"
        assert load([file], {**hours, "series_max": series_max, "experts": "full"}, {}).stream_spec().experts == EXPERTS
    assert load([file], {**hours, "experts_memory_max": "0"}, {}).expert_choice().kind == "off"


def test_experts_by_name_are_shown_as_they_are_written(file: Path) -> None:
    settings = load([file], {"step": "1h", "experts": ["moves", "profile"]}, {})
    assert settings.stream_spec().experts == ("profile", "moves")
    assert settings.effective()["experts"] == settings.forecasting()["experts_setting"] == ["profile", "moves"]
    assert load([], json.loads(json.dumps(settings.effective())), {}) == settings


def test_what_has_no_effect_of_season_and_experts_is_said(file: Path) -> None:
    (hint,) = load([file], {"experts": ["profile", "moves"]}, {}).hints()
    assert hint.startswith("experts: profile: without effect")
    holidays = {"key": "day_type", "holidays": ["2001-12-25"]}
    (hint,) = load([file], {"season": holidays}, {}).hints()
    assert "season.holidays" in hint and "2001-12-25" in hint


def test_all_faults_are_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load([file], {"horizon": -1, "gap_max": -1, "nonsense": 1}, {})
    assert all(word in str(raised.value) for word in ("horizon", "gap_max", "nonsense"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load([tmp_path / "nowhere.yaml"], {}, {})
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        load([broken], {}, {})


def test_secrets_are_read_from_files_and_shown_nowhere(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    changes = {
        "kafka.security_protocol": "SASL_SSL",
        "kafka.sasl_plain_username": "app",
        "kafka.sasl_plain_password_file": str(secret),
    }
    settings = load([file], changes, {})
    assert settings.kafka_settings().client()["sasl_plain_password"] == "hunter2"
    by_environment = load(
        [file],
        {k: v for k, v in changes.items() if "file" not in k},
        {"STREAMRNN__KAFKA__SASL_PLAIN_PASSWORD": "hunter2"},
    )
    for shown in (settings, by_environment):
        assert "hunter2" not in repr(shown) + str(shown.effective()) + repr(shown.kafka_settings())
    with pytest.raises(ConfigError) as raised:
        load([file], {**changes, "kafka.sasl_plain_password": "hunter2"}, {})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("secret", ["abc #def", "12345", "null", "[x", "a: b", "'quoted'", " blanks ", "2026-13-45"])
def test_a_secret_from_the_environment_is_taken_letter_by_letter(file: Path, secret: str) -> None:
    environment = {"STREAMRNN__KAFKA__SASL_PLAIN_PASSWORD": secret, "STREAMRNN__KAFKA__SASL_PLAIN_USERNAME": secret}
    kafka = load([file], {"kafka.security_protocol": "SASL_SSL"}, environment).kafka_settings()
    assert (kafka.sasl_plain_password, kafka.sasl_plain_username) == (secret, secret)


def test_a_changed_password_file_is_read_by_the_next_client(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    changes = {
        "kafka.security_protocol": "SASL_SSL",
        "kafka.sasl_plain_username": "app",
        "kafka.sasl_plain_password_file": str(secret),
    }
    kafka = load([file], changes, {}).kafka_settings()
    secret.write_text("hunter3\n")
    assert kafka.client()["sasl_plain_password"] == "hunter3"
    secret.unlink()
    with pytest.raises(TransportError, match="sasl_plain_password_file cannot be read"):
        kafka.client()
    with pytest.raises(ConfigError, match="sasl_plain_password_file: cannot be read"):
        load([file], changes, {}).kafka_settings()


def test_what_is_shown_can_be_read_again(file: Path) -> None:
    settings = load([file], {"lateness": "250ms", "calendar": ["1d", "7d"]}, {})
    shown = settings.effective()
    assert (shown["lateness"], shown["calendar"], shown["learn"]["interval"]) == ("250ms", ["1d", "7d"], "30s")
    assert load([], shown, {}).stream_spec() == settings.stream_spec()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("channels: [no, no2]", "channels.0: YAML reads the words no, off or false as false: write it in quotes"),
        ("channels: [temp, on]", "channels.1: YAML reads the words yes, on or true as true: write it in quotes"),
        ("channels: [temp, 10]", "channels.1: must be a text, and YAML reads it as a number: write it in quotes"),
        ("channels: [temp, 1.5]", "channels.1: .*a number.*quotes"),
        ("channels: [temp, ~]", "channels.1: .*nothing.*quotes"),
        ("channels: [temp, 2024-01-01]", "channels.1: .*a date.*quotes"),
        (
            "decode: {values: {no: a, temp: b}}",
            "a key in decode.values: YAML reads the words no, off or false as false",
        ),
        ("decode: {values: {1: a, temp: b}}", "a key in decode.values: must be a text, and YAML reads it as a number"),
        ("decode: {values: {temp: yes, flow: b}}", "decode.values.temp: YAML reads the words yes, on or true as true"),
        ("decode: {series: off}", "decode.series: YAML reads the words no, off or false"),
        ("input: on", "input: YAML reads the words yes, on or true"),
        ("channels: no", r"channels: write a list, such as \[temp, flow\]"),
    ],
)
def test_what_yaml_reads_as_something_else_is_to_be_quoted(file: Path, tmp_path: Path, text: str, words: str) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load([file, other], {}, {})


def test_the_words_in_quotes_are_names(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("channels: ['no', 'no2', \"1\"]\ndecode: {values: {'no': a, no2: 'yes', \"1\": b}}")
    settings = load([file, other], {}, {})
    assert settings.channels == ("no", "no2", "1")
    assert settings.decode.values == {"no": "a", "no2": "yes", "1": "b"}


def test_a_word_for_true_is_no_hint_at_a_password(file: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load([file], {"kafka.sasl_plain_password": True}, {})
    assert "yes" not in str(refused.value) and "true" not in str(refused.value).lower()


def test_decoding_has_its_bounds_as_settings(file: Path) -> None:
    decode = load([file], {}, {}).decode_spec()
    assert (decode.value_abs_max, decode.series_bytes_max, decode.record_bytes_max) == (1e30, 256, 1 << 20)
    assert (decode.series, decode.ts) == (None, None)
    changed = load([file], {"decode.value_abs_max": "1e300", "decode.series_bytes_max": 1000}, {}).decode_spec()
    assert (changed.value_abs_max, changed.series_bytes_max) == (1e300, 1000)
    for bad in ({"decode.value_abs_max": 0}, {"decode.value_abs_max": "inf"}, {"decode.series_bytes_max": 0}):
        with pytest.raises(ConfigError, match="decode"):
            load([file], bad, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("quantiles: 0.5", r"quantiles: write a list, such as \[0.05, 0.5, 0.95\]"),
        ("calendar: 1d", r"calendar: write a list, such as \[1d, 1w\]"),
        ("kafka: localhost:9092", r"kafka: write a section with keys and values"),
        ("decode: {values: temp}", r"has no \* for the channel"),
        ("decode: {values: [temp]}", r"decode\.values: write"),
        ("decode: {preset: telegraff}", r"did you mean telegraf\?"),
        ("learn:\n\tticks: 3", r"a tab: write spaces \(line 8, column 1\)"),
        ("learn:\n  ticks:\t\t3\n\t  drift: true", r"a tab: write spaces \(line 8, column 9"),
    ],
)
def test_what_is_written_the_wrong_way_is_answered_with_the_right_one(file: Path, change: str, words: str) -> None:
    file.write_text(SMALLEST.replace("kafka: {bootstrap_servers: localhost:9092}\n", "\n") + change + "\n")
    with pytest.raises(ConfigError, match=words) as raised:
        load([file], {}, {})
    assert "Input should be" not in str(raised.value) and "token" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("STREAMRNN_HORIZON", "STREAMRNN__HORIZON"),
        ("STREAMRNN_KAFKA_BOOTSTRAP_SERVERS", "STREAMRNN__KAFKA__BOOTSTRAP_SERVERS"),
        ("STREAMRNN_KAFKA__BOOTSTRAP_SERVERS", "STREAMRNN__KAFKA__BOOTSTRAP_SERVERS"),
        ("STREAMRNN_LEARN_SERIES_MAX", "STREAMRNN__LEARN__SERIES_MAX"),
    ],
)
def test_a_variable_with_one_underscore_is_refused_with_the_right_name(file: Path, name: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .* write {right}$"):
        load([file], {}, {name: "secret-20"})
    with pytest.raises(ConfigError) as raised:
        load([file], {}, {name: "secret-20"})
    assert "secret-20" not in str(raised.value)


def test_variables_that_mean_something_else_are_left_alone(file: Path) -> None:
    """Kubernetes names every service in variables of its name."""
    others = {
        "STREAMRNN_PORT": "tcp://10.0.0.7:80", "STREAMRNN_SERVICE_HOST": "10.0.0.7", "STREAMRNN_HTTP_PORT": "tcp://10.0.0.7:80",
        "STREAMRNN_KILLS": "100", "STREAMRNNHORIZON": "3",
    }  # fmt: skip
    assert load([file], {}, others).horizon == 12


def test_a_model_beside_train_off_is_said_to_have_no_effect(file: Path) -> None:
    (hint,) = load([file], {"burn_in": 16}, {}).hints()
    assert hint.startswith("burn_in: has no effect")
    assert load([file], {"train": "off"}, {}).hints() == []
    assert load([file], {"model.hidden": 12}, {}).hints() == []
    [hint] = load([file], {"model.hidden": 12, "train": "off"}, {}).hints()
    assert hint.startswith("model: has no effect beside train: off")
