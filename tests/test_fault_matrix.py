"""FAULTS.md says which test stands for which fault: they have to be there, to run, and not to be skipped in every case."""

from __future__ import annotations

import ast
from pathlib import Path

from fault_matrix import Row, name_of, not_shown, rows

HERE = Path(__file__).parent


def test_every_fault_has_its_row_and_every_row_its_tests() -> None:
    found = rows()
    assert [row.number for row in found] == list(range(1, 53))
    missing = [row.number for row in found if not row.tests and row.result != "not here"]
    assert not missing, "these rows name no test"


def test_every_test_that_is_named_is_there_and_asserts_something() -> None:
    functions: dict[str, dict[str, ast.AST]] = {}
    odd = []
    for row in rows():
        for test in row.tests:
            file, _, name = test.partition("::")
            if file not in functions:
                tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
                functions[file] = {
                    node.name: node
                    for node in ast.walk(tree)
                    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            node = functions[file].get(name)
            if node is None or not name.startswith("test_") or _always_skipped(node):
                odd.append(test)
    assert not odd


def _always_skipped(node: ast.AST) -> bool:
    """Whether a decorator keeps it from running anywhere."""
    decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
    return any(
        each.startswith("pytest.mark.skip(") or each in ("pytest.mark.skip", "pytest.mark.xfail") for each in decorators
    )


def test_a_row_whose_tests_were_all_skipped_is_not_shown() -> None:
    faults = [
        Row(1, "shown by one of two", ("a.py::test_a", "b.py::test_b"), "holds"),
        Row(2, "skipped", ("b.py::test_b",), "holds"),
        Row(3, "of another run", ("c.py::test_c",), "holds"),
        Row(4, "failed", ("d.py::test_d", "b.py::test_b"), "holds"),
    ]
    outcomes = {"a.py::test_a": {"passed", "skipped"}, "b.py::test_b": {"skipped"}, "d.py::test_d": {"failed"}}
    assert [row.number for row in not_shown(outcomes, faults)] == [2]
    assert name_of("tests/kafka/test_kafka_kills.py::test_x[at-least-once-3]") == "kafka/test_kafka_kills.py::test_x"
