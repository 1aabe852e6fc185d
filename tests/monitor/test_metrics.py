"""Metrics: there from the start, named as Prometheus wants it, and about the process, too."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from running import settings

import streamrnn
from streamrnn.monitor import observer as observe
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.records import REASONS

SOURCES = Path(streamrnn.__file__).parent


@pytest.fixture(scope="module")
def text() -> str:
    """Of a worker that has done nothing yet."""
    return WorkerObserver(settings().stream_spec()).metrics_text().decode()


@pytest.fixture(scope="module")
def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, label: str) -> set[str]:
    return {sample.labels[label] for sample in family.samples if label in sample.labels}


# ── from the start ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_counter_has_its_samples_before_its_first_event(families: dict[str, Metric]) -> None:
    counters = {name: family for name, family in families.items() if family.type == "counter"}
    assert len(counters) > 20
    for name, family in counters.items():
        if not name.startswith("process_"):
            totals = [sample.value for sample in family.samples if sample.name.endswith("_total")]
            assert totals and not any(totals), name


def test_closed_sets_of_label_values_are_complete(families: dict[str, Metric]) -> None:
    assert values(families["streamrnn_rejected"], "reason") == set(REASONS)
    assert values(families["streamrnn_outputs"], "kind") == {"forecast", "imputation", "dead-letter"}
    assert values(families["streamrnn_batch_seconds"], "stage") == {"decode", "engine", "publish"}
    assert {"MESSAGE_TOO_LARGE", "INVALID_TIMESTAMP"} <= values(families["streamrnn_outputs_refused"], "error")


def test_every_reason_for_which_a_state_is_refused_has_a_sample(families: dict[str, Metric]) -> None:
    """All words that `Restored.refuse` is called with, or could be by the tables beside the call."""
    named: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refuse":
                named |= {
                    arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                }
    assert len(named) > 4
    assert named <= values(families["streamrnn_state_rows_refused"], "reason")


def test_what_runs_and_the_process_are_among_them(families: dict[str, Metric]) -> None:
    [build] = [s for s in families["streamrnn_build_info"].samples if s.name == "streamrnn_build_info"]
    assert build.value == 1 and build.labels["version"] == streamrnn.__version__
    assert set(build.labels) == {"version", "python", "torch"}
    assert {"process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"} <= families.keys()
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert families["streamrnn_partitions_owned"].samples[0].value == 0


def test_partitions_owned_follow_the_assignment() -> None:
    observer = WorkerObserver(settings().stream_spec())
    for partition in (3, 4, 5):
        observer.assigned(partition, 0, 0)
    observer.revoked(4)
    assert "\nstreamrnn_partitions_owned 2.0\n" in observer.metrics_text().decode()


def test_two_workers_in_one_process_have_metrics_of_their_own() -> None:
    one, other = (WorkerObserver(settings().stream_spec()) for _ in range(2))
    one.metrics.ticks.inc(3)
    assert "streamrnn_ticks_total 3.0" not in other.metrics_text().decode()


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────

# The rules of `promtool check metrics` (client_golang's promlint).
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
ABBREVIATED = (
    "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d", "min", "mins", "hr", "hrs", "msec",
)  # fmt: skip
NOT_BASE = (
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks", "kilobytes", "megabytes",
    "gigabytes", "bits", "percent",
)  # fmt: skip


def lint(text: str) -> list[str]:
    found: list[str] = []
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        words = name.split("_")
        if not family.documentation:
            found.append(f"{name}: no help")
        if family.type != "counter" and name.endswith("_total"):
            found.append(f"{name}: only counters end in _total")
        if family.type not in ("histogram", "summary") and re.search(r"_(bucket|count|sum)$", name):
            found.append(f"{name}: a suffix of histograms")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            found.append(f"{name}: not in lower case with underscores")
        found += [f"{name}: names its type" for word in words if word in TYPES]
        found += [f"{name}: an abbreviated unit" for word in words if word in ABBREVIATED]
        found += [f"{name}: not a base unit" for word in words if word in NOT_BASE]
        for sample in family.samples:
            for label in sample.labels.keys() - {"le"}:
                if not re.fullmatch(r"[a-z][a-z0-9_]*", label) or label == "quantile":
                    found.append(f"{name}: label {label}")
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    return sorted(set(found)) + [f"{name}: twice" for name in names if names.count(name) > 1]


def test_the_names_follow_the_rules(text: str) -> None:
    assert lint(text) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("# TYPE x_total gauge\nx_total 1", "only counters"),
        ("# HELP lag_ms x\n# TYPE lag_ms gauge\nlag_ms 1", "abbreviated"),
        ("# HELP lag_minutes x\n# TYPE lag_minutes gauge\nlag_minutes 1", "base unit"),
        ("# HELP lag_gauge x\n# TYPE lag_gauge gauge\nlag_gauge 1", "names its type"),
        ("# HELP lagMax x\n# TYPE lagMax gauge\nlagMax 1", "lower case"),
        ("# HELP lag_count x\n# TYPE lag_count gauge\nlag_count 1", "suffix"),
    ],
)
def test_the_rules_bite(line: str, why: str) -> None:
    assert any(why in found for found in lint(line + "\n"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_finds_nothing(text: str) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_runbook_names_metrics_that_exist(families: dict[str, Metric]) -> None:
    table = (SOURCES.parent / "deploy" / "README.md").read_text().split("## What to watch", 1)[1].split("\n## ", 1)[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)(?:\{[^`]*)?`", row)}
    assert len(named) > 15
    known = {name.removeprefix("streamrnn_") for name in families} | {
        f"{name.removeprefix('streamrnn_')}_total" for name, family in families.items() if family.type == "counter"
    }
    assert named <= known | {"event_loop_lag_seconds"}, named - known


def test_what_is_declared_as_closed_has_as_many_labels_as_its_metric() -> None:
    metrics = WorkerObserver(settings().stream_spec()).metrics
    for family, *labels in observe.CLOSED_SETS:
        assert len(getattr(metrics, family)._labelnames) == len(labels), family
