# SPDX-License-Identifier: MIT
"""Failed assertions in what guests print."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.testing.results.guest_failures import MOST_FAILURES, GuestFailure, find_failures


def test_those_of_our_library() -> None:
    lines = [
        "noise",
        '# a_case: FAILED at programs/x.c:14: check_eq(f(1, "a: b"), 2)',
        "#   left: 1",
        "#   right: 2",
        "# a_case: FAILED at programs/x.c:15: p != NULL",
        "#   right: of nobody",
    ]
    first, second = find_failures(lines)
    assert first == GuestFailure(
        "a_case", "programs/x.c", 14, 'check_eq(f(1, "a: b"), 2)', (("left", "1"), ("right", "2"))
    )
    assert first.describe() == ('check_eq(f(1, "a: b"), 2)', "  left: 1", "  right: 2")
    assert (second.line, second.expression, second.values) == (15, "p != NULL", ())


def test_those_of_kunit() -> None:
    lines = [
        "    # example: EXPECTATION FAILED at lib/kunit/kunit-example-test.c:30",
        "    Expected 1 + 1 == 3, but",
        "        1 + 1 == 2 (0x2)",
        "    # example: ASSERTION FAILED at lib/x.c:31",
        "not ok 1 example",
    ]
    first, second = find_failures(lines)
    assert (first.file, first.line) == ("lib/kunit/kunit-example-test.c", 30)
    assert first.describe() == ("Expected 1 + 1 == 3, but", "  1 + 1 == 2 (0x2)")
    assert (second.line, second.expression) == (31, "assertion failed")


def test_many_and_long_ones_are_bounded() -> None:
    """Those of a guest that means to keep us busy: quadratic, each would take for ever."""
    assert len(find_failures(["# a: FAILED at b:1: c"] * 100_000)) == MOST_FAILURES
    for part in ("# a: FAILED at ", ": FAILED at b:1", " # a: EXPECTATION FAILED at ", " ", ":1"):
        lines = ["# a" + part * 20_000, part * 20_000, " # a: ASSERTION FAILED at " + part * 20_000]
        assert len(find_failures(lines * 20)) <= 20 * len(lines)
    (one,) = find_failures(["# a: FAILED at b:1: " + "c" * 100_000, "#   left: " + "d" * 100_000])
    assert max(len(one.expression), len(one.values[0][1])) < 5000


@given(st.lists(st.text() | st.just("# a: FAILED at b:1: c") | st.just("#   left: 1")))
def test_nothing_raises(lines: list[str]) -> None:
    assert all(each.line >= 0 for each in find_failures(lines))
