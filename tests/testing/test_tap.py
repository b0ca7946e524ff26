# SPDX-License-Identifier: MIT
"""KTAP and TAP to results: what linux's specification and parsers, and others' outputs, ask for."""

from __future__ import annotations

import re
from itertools import pairwise
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.testing.results import tap_stream
from pyvmm.testing.results.tap import LINE_LIMIT, TapParser
from pyvmm.testing.results.tap_lines import Flavour, read_line
from pyvmm.testing.results.tap_results import TapReport, TapStatus
from pyvmm.testing.results.tap_stream import MAX_DEPTH, MAX_RESULTS

P, F, S = TapStatus.PASSED, TapStatus.FAILED, TapStatus.SKIPPED
C, XF, XP = TapStatus.CRASHED, TapStatus.XFAILED, TapStatus.XPASSED


def report(text: str | bytes) -> TapReport:
    parser = TapParser()
    parser.feed(text if isinstance(text, bytes) else dedent(text).encode())
    return parser.finish()


def told(text: str | bytes) -> dict[str, TapStatus]:
    """Statuses by full name, in their order; fails where two have one name."""
    results = report(text).results
    found = {result.name: result.status for result in results}
    assert len(found) == len(results)
    return found


SPECIFICATION = """\
    KTAP version 1
    1..1
      KTAP version 1
      1..3
        KTAP version 1
        1..1
        # test_1: initializing test_1
        ok 1 test_1
      ok 1 example_test_1
        KTAP version 1
        1..2
        ok 1 test_1 # SKIP test_1 skipped
        ok 2 test_2
      ok 2 example_test_2
        KTAP version 1
        1..3
        ok 1 test_1
        # test_2: FAIL
        not ok 2 test_2
        ok 3 test_3 # SKIP test_3 skipped
      not ok 3 example_test_3
    not ok 1 main_test
"""
"""The example at the end of linux's ktap.rst."""


def test_the_example_of_the_specification() -> None:
    whole = report(SPECIFICATION)
    assert {each.name: each.status for each in whole.results} == {
        "main_test::example_test_1::test_1": P,
        "main_test::example_test_2::test_1": S,
        "main_test::example_test_2::test_2": P,
        "main_test::example_test_3::test_1": P,
        "main_test::example_test_3::test_2": F,
        "main_test::example_test_3::test_3": S,
    }
    assert not whole.problems
    assert not whole.passed
    by_name = {each.name: each for each in whole.results}
    assert by_name["main_test::example_test_2::test_1"].reason == "test_1 skipped"
    assert by_name["main_test::example_test_3::test_2"].lines == ("    # test_2: FAIL",)
    assert whole.describe() == "3 passed, 2 skipped, 1 failed"


KUNIT = """\
    [    0.050000] Linux version 7.1
    [    0.060000] KTAP version 1
    [    0.060000] 1..2
    [    0.070000][    T1]     KTAP version 1
    [    0.070000][    T1]     # Subtest: list
    [    0.070000][    T1]     1..2
    [   10.070000][    T1]     # add: EXPECTATION FAILED at lib/list.c:3
    [   10.070000][    T1]     Expected 1 == 2
    [   10.070000][    T1]     not ok 1 add
    [   10.070000][   C12]         KTAP version 1
    [   10.070000][   C12]         # Subtest: sizes
    a line of somebody else, without a timestamp
    [   10.070000][   C12]         ok 1 one
    [   10.070000][   C12]         ok 2 two # SKIP too large
    [   10.070000][   C12]     # sizes: pass:1 fail:0 skip:1 total:2
    [   10.070000][   C12]     ok 2 sizes
    [   10.070000] # list: pass:1 fail:1 skip:0 total:2
    [   10.070000] not ok 1 list
    [10000.070000]     KTAP version 1
    [10000.070000]     # Subtest: tree
    [10000.070000]     1..1
    [10000.070000]     ok 1 grows
    [10000.070000] ok 2 tree
"""


def test_kunit_with_timestamps_of_several_widths() -> None:
    whole = report(KUNIT)
    assert {each.name: each.status for each in whole.results} == {
        "list::add": F,
        "list::sizes::one": P,
        "list::sizes::two": S,
        "tree::grows": P,
    }
    assert not whole.problems


def test_lines_are_cut_where_the_version_line_begins() -> None:
    text = """\
        12:00:01 vm kernel: KTAP version 1
        12:00:02 vm kernel: 1..2
        12:00:02 vm kernel:   KTAP version 1
        12:00:02 vm kernel:   1..1
        12:00:03 vm kernel:   ok 1 inner
        12:10:30 vm kernel: ok 1 outer
        ok 2 no
        12:10:30 vm kernel: ok 2 last
    """
    # What comes without the prefix is a line like any other.
    whole = report(text)
    assert [each.name for each in whole.results] == ["outer::inner", "no", "last"]
    assert whole.problems == ("result 2 (last) where 3 was due", "3 results, but a plan of 2")


def test_unknown_lines_are_fine_at_any_indentation() -> None:
    noise = ["okay", "  not okay 1", "ok", "ok then", "not ok", "1..", "1..x", "2..3", "#", "# ok",
             "   1 ok", "    [ cut here ]", "\tTAP", "KTAP version", "ok 1x", "---", "...", "",
             "# Totals: pass:1 fail:0", "# ok 5 and good, said none", "notok 1 x"]  # fmt: skip
    lines = ["KTAP version 1", "1..2", "  KTAP version 1", "  1..1", "  ok 1 a", "ok 1 b", "ok 2 c"]
    expected = {"b::a": P, "c": P}
    assert told("\n".join(lines)) == expected
    for each in noise:
        if each.startswith("# ok 5"):
            continue  # That is one, by kselftest's "# ".
        mixed = "\n".join(line for pair in zip(lines, [each] * 9, strict=False) for line in pair)
        assert told(mixed) == expected, each
        assert not report(mixed).problems, each


@pytest.mark.parametrize("opening", ["# TAP version 13\n# 1..2\n", "# 1..2\n", ""])
def test_kselftest_puts_a_hash_before_inner_results(opening: str) -> None:
    text = (
        "TAP version 13\n1..2\n" + opening + "# ok 1 reads # XFAIL no such file\n# said by it\n"
        "# not ok 2 writes\nnot ok 1 selftests: fs: rw # exit=1\n"
        "# timeout set to 45\nok 2 selftests: fs: seek # SKIP\n"
    )
    assert told(text) == {
        "selftests: fs: rw::reads": XF,
        "selftests: fs: rw::writes": F,
        "selftests: fs: seek": S,
    }
    assert not report(text).problems


def test_subtests_of_tap_14_and_of_older_kunit() -> None:
    text = """\
        TAP version 14
        # Subtest: foo.js
            # Subtest: deep
                ok 1 - in \\# side # todo not yet
                1..1
            ok 1 - deep
            1..1
        ok 1 - foo.js
        1..1
    """
    assert told(text) == {"foo.js::deep::in # side": XP}
    text = "TAP version 14\n\t# Subtest: s\n\t1..1\n\tok 1 - a\nok 1 - s\n"
    assert told(text) == {"s::a": P}


def test_what_perls_test_more_prints() -> None:
    text = """\
        TAP version 13
        1..4
        ok 1 - first \\# with hash
        # Subtest: inner
            1..3
            ok 1 - a
            not ok 2 - b
            #   Failed test 'b'
            #   at t.pl line 3.
            ok 3 # skip no disk
            # Looks like you failed 1 test of 3.
        not ok 2 - inner
        #   Failed test 'inner'
        not ok 3 - todo one # TODO later
        #   Failed (TODO) test 'todo one'
        # Subtest: skipped all
            1..0 # SKIP nothing here
        ok 4 # skip nothing here
        # Looks like you failed 1 test of 4.
    """
    assert told(text) == {
        "first # with hash": P,
        "inner::a": P,
        "inner::b": F,
        "inner::test 3": S,
        "todo one": XF,
        "skipped all": S,
    }
    assert not report(text).problems


def test_a_subtest_may_come_first_without_a_plan_or_a_header() -> None:
    assert told("KTAP version 1\n  ok 1 a\n  not ok 2 b\nnot ok 1 both\n") == {
        "both::a": P,
        "both::b": F,
    }
    assert told("KTAP version 1\n1..1\nKTAP version 1\n1..1\nok 1 a\nok 1 outer") == {"outer::a": P}


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("ok 1 a", P, ""),
        ("ok 1 - a", P, ""),
        ("not ok 1 a", F, ""),
        ("ok 1 a # SKIP why not", S, "why not"),
        ("not ok 1 a # SKIP why not", S, "why not"),
        ("ok 1 a # TODO broken", XP, "broken"),
        ("not ok 1 a # TODO broken", XF, "broken"),
        ("not ok 1 a # XFAIL known", XF, "known"),
        ("ok 1 a # XFAIL known", XF, "known"),
        ("not ok 1 a # TIMEOUT 30 seconds", F, "30 seconds"),
        ("ok 1 a # TIMEOUT 30 seconds", F, "30 seconds"),
        ("not ok 1 a # ERROR no disk", F, "no disk"),
        ("ok 1 a # rcode=0", P, "rcode=0"),
        ("not ok 1 a # SKIPPING is no directive", F, "SKIPPING is no directive"),
        ("not ok 1 a # FROBNICATE", F, "FROBNICATE"),
        ("ok 1 a # skip in small letters is TAP's", P, "skip in small letters is TAP's"),
    ],
)
def test_directives(line: str, status: TapStatus, reason: str) -> None:
    (result,) = report(f"KTAP version 1\n1..1\n{line}\n").results
    assert (result.name, result.status, result.reason) == ("a", status, reason)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("ok", P), ("not ok", F), ("ok - a", P), ("ok 1 a # Skipped: no", S), ("ok 1 a #skip", S),
        ("not ok 1 a # todo", XF), ("not ok 1 a # todolist", F),
    ],
)  # fmt: skip
def test_tap_needs_no_number_and_knows_two_directives(line: str, status: TapStatus) -> None:
    (result,) = report(f"TAP version 13\n1..1\n{line}\n").results
    assert result.status is status
    assert result.name == ("a" if "a" in line else "test 1")


def test_a_result_may_have_no_name() -> None:
    whole = report("KTAP version 1\n1..2\nok 1 # SKIP why\nok 2\n")
    assert [(each.name, each.status, each.reason) for each in whole.results] == [
        ("test 1", S, "why"),
        ("test 2", P, ""),
    ]


def test_a_name_may_have_a_hash_sign_without_a_blank_before_it() -> None:
    assert told("KTAP version 1\nok 1 C#7 works\n") == {"C#7 works": P}


def test_a_block_of_yaml_belongs_to_its_result() -> None:
    text = """\
        TAP version 13
        1..3
        not ok 1 a
          ---
          message: broken
          got:
            ok 9 not a result
          1..7
          ...
        ok 2 b
          ---
          never: closed
        not ok 3 c
    """
    whole = report(text)
    assert {each.name: each.status for each in whole.results} == {"a": F, "b": P, "c": F}
    assert not whole.problems
    assert "  message: broken" in whole.results[0].lines
    assert "    ok 9 not a result" in whole.results[0].lines


def test_comments_behind_a_failure_are_of_it_in_tap() -> None:
    whole = report("TAP version 13\nnot ok 1 a\n#   Failed test 'a'\nok 2 b\n")
    assert whole.results[0].lines == ("#   Failed test 'a'",)


def test_what_is_planned_and_does_not_come_has_crashed() -> None:
    whole = report(
        "KTAP version 1\n1..4\nok 1 a\n  KTAP version 1\n  # Subtest: s\n  1..3\n  ok 1 x\n"
        "Kernel panic - not syncing\n"
    )
    assert {each.name: each.status for each in whole.results} == {
        "a": P,
        "s::x": P,
        "s::missing 2..3": C,
        "s": C,
        "missing 3..4": C,
    }
    assert all(
        each.lines[-1] == "Kernel panic - not syncing" for each in whole.results if each.status is C
    )
    assert told("KTAP version 1\n1..999999999\nok 1 a\n") == {"a": P, "missing 2..999999999": C}


def test_a_subtest_whose_result_has_another_name_has_none() -> None:
    text = "KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: s\n  1..1\n  ok 1 x\nok 2 t\n"
    assert told(text) == {"s::x": P, "s": C, "t": P}


def test_a_parent_that_fails_though_all_below_it_passed_is_kept() -> None:
    text = "KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 x\n# leaked\nnot ok 1 s\n"
    whole = report(text)
    assert [(each.name, each.status) for each in whole.results] == [("s::x", P), ("s", F)]
    assert whole.results[1].lines == ("# leaked",)


@pytest.mark.parametrize(
    "text",
    ["", "KTAP version 1\n", "KTAP version 1\n1..0\n", "TAP version 13\n1..0\n", "ok 1 a\n1..1\n"],
)
def test_no_tests_are_no_pass(text: str) -> None:
    whole = report(text)
    assert not whole.passed
    assert whole.describe() == "no tests"


def test_a_parent_without_tests_is_no_pass() -> None:
    text = "KTAP version 1\n1..1\n  KTAP version 1\n  1..0\nok 1 s\n"
    assert told(text) == {"s": F}


def test_a_plan_of_none_may_say_that_all_is_skipped() -> None:
    whole = report("TAP version 13\n1..0 # SKIP no such hardware\n")
    assert [(each.status, each.reason) for each in whole.results] == [(S, "no such hardware")]
    assert whole.passed
    text = "TAP version 14\n1..1\n    1..0 # skip no disk\nok 1 - s\n"
    assert told(text) == {"s": S}


def test_bail_out_ends_it_all() -> None:
    whole = report("TAP version 13\n1..3\nok 1 a\nBail out! no disk\nok 2 b\nok 3 c\n")
    assert {each.name: each.status for each in whole.results} == {"a": P, "missing 2..3": C}
    assert whole.problems == ("the guest gave up: Bail out! no disk",)
    # Of a program that kselftest runs: of it only.
    whole = report(
        "TAP version 13\n1..2\n# TAP version 13\n# 1..2\n# Bail out! no\nnot ok 1 s\nok 2 t\n"
    )
    assert {each.name: each.status for each in whole.results} == {"s::missing 1..2": C, "t": P}
    assert not whole.passed


def test_a_guest_that_gave_up_or_has_all_is_complete() -> None:
    for text, is_complete in (
        (b"TAP version 13\n1..3\nok 1 a\n", False),
        (b"TAP version 13\n1..3\nok 1 a\nBail out!\n", True),
        (b"TAP version 13\nok 1 a\nok 2 b\n", False),
        (b"TAP version 13\nok 1 a\n1..1\n", True),
        (b"KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n", False),
    ):
        parser = TapParser()
        parser.feed(text)
        assert parser.is_complete is is_complete, text


def test_a_comment_that_begins_like_a_result_is_none() -> None:
    assert told("TAP version 13\n1..1\n# ok, now the rest\n# ok then\n# not ok\nok 1 a\n") == {
        "a": P
    }


def test_numbers_and_plans_that_contradict_are_problems() -> None:
    assert report("KTAP version 1\n1..2\nok 1 a\nok 3 b\n").problems == (
        "result 3 (b) where 2 was due",
    )
    assert report("KTAP version 1\n1..1\nok 1 a\nok 2 b\n").problems == (
        "2 results, but a plan of 1",
    )
    assert report("TAP version 13\n1..1\nok 1 a\n1..2\n").problems == (
        "a second plan, 1..2 after 1..1",
    )
    assert not report("KTAP version 1\n1..1\nok 1 a\nok 2 b\n").passed


def test_equal_names_are_numbered_and_never_hide_each_other() -> None:
    text = "KTAP version 1\nok 1 a\nok 2 a\nok 3 a#2\nnot ok 4 a\n"
    assert list(told(text).items()) == [("a", P), ("a#3", P), ("a#2", P), ("a#4", F)]


def test_several_documents_are_one_report() -> None:
    text = (
        "[    1.0001] KTAP version 1\n[    1.0001] 1..1\nTAP version 13\n1..2\n"
        "[    1.0001] ok 1 of_the_kernel\nok 1 of_user_space\n[    1.2222] random: crng\nok 2 b\n"
        "TAP version 13\n1..1\nnot ok 1 b\n"
    )
    assert told(text) == {"of_the_kernel": P, "of_user_space": P, "b": P, "b#2": F}
    assert not report(text).problems


def test_results_are_recorded_as_they_come() -> None:
    parser = TapParser()
    assert not parser.has_begun
    parser.feed(b"KTAP version 1\n1..1\n  KTAP version 1\n  # Subtest: s\n  1..2\n  ok 1 a\n  not ")
    assert parser.has_begun
    assert [(each.name, each.status) for each in parser.results()] == [("s::a", P)]
    assert not parser.is_complete
    parser.feed(b"ok 2 b\n")
    assert [each.name for each in parser.results()] == ["s::a", "s::b"]
    parser.feed(b"not ok 1 s\n")
    assert parser.is_complete
    assert [each.name for each in parser.finish().results] == ["s::a", "s::b"]


@pytest.mark.slow
def test_hostile_lines_are_bounded() -> None:
    parser = TapParser()
    parser.feed(b"KTAP version 1\n1..1\nok 1 ")
    for _ in range(100):
        parser.feed(b"x" * LINE_LIMIT)
    parser.feed(b"\n")
    (result,) = parser.finish().results
    assert len(result.name) < LINE_LIMIT
    deep = "".join(" " * level + "KTAP version 1\n" for level in range(5000))
    flat = "KTAP version 1\n1..1\n" * 5000
    for text in (deep, flat, deep + "ok 1 a\n", "KTAP version 1\n" + "# " * 5000 + "ok 1 a\n"):
        assert max((len(each.path) for each in report(text).results), default=0) <= MAX_DEPTH + 1
    many = report("KTAP version 1\n" + "".join(f"ok {n} a{n}\n" for n in range(1, 20_100)))
    assert len(many.results) == MAX_RESULTS
    assert not many.passed
    assert len(report("KTAP version 1\n" + "ok 7 a\n" * 500).problems) < 100
    assert not report("KTAP version 1\n1..99999999999999999999\nok 99999999999999999999 a\n").passed


@pytest.mark.parametrize(
    "plan", ["  1..1\n1..5\n", "  ok 1 a\nok 1 b\n", "KTAP version 1\n1..0 # skip\n"]
)
def test_results_that_nobody_gave_count_and_keep_no_line_twice(
    plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_stream, "MAX_RESULTS", 100)
    noise = "".join(f"line {n}\n" for n in range(60))
    whole = report(f"KTAP version 1\n{noise}{plan * 200}")
    assert len(whole.results) <= 100
    assert "more than 100 results: the rest is not looked at" in whole.problems
    assert sum(line == "line 59" for each in whole.results for line in each.lines) == 1


@pytest.mark.parametrize("body", ["# Subtest: " + "a ", "# ", "ok 1 ", "1..2 ", "Bail out! "])
def test_long_lines_take_no_longer_than_they_are(body: str) -> None:
    """Each would take seconds if its pattern was tried at each of its letters."""
    for line in (body + " " * 16_000 + "a", body * 8000, body + "#" * 16_000, body + "# " * 8000):
        for flavour in Flavour:
            for _ in range(10):
                read_line(line, flavour)


def test_a_name_is_one_level_whatever_is_in_it() -> None:
    names = ["a::b", "a.b", "::" * 3000, ":::"]
    lines = "".join(f"ok {number} {name}\n" for number, name in enumerate(names, 1))
    found = report(f"KTAP version 1\n1..4\n{lines}").results
    assert [len(each.name.split("::")) for each in found] == [1, 1, 1, 1]
    assert len({each.name for each in found}) == 4


def test_control_bytes_in_names_are_written_out() -> None:
    whole = report(b"KTAP version 1\nnot ok 1 a\x1b[31m\xff\x00 # \x07\r\n")
    (result,) = whole.results
    assert (result.name, result.reason) == ("a\\x1b[31m\\xff\\x00", "\\x07")


# -- properties --

WORDS = [
    "KTAP version 1", "TAP version 13", "TAP version 14", "1..2", "1..0 # SKIP x", "ok 1 a",
    "not ok 2 b", "ok 2 - c # SKIP why", "ok 3", "# Subtest: a", "  ---", "  ...", "Bail out! x",
    "noise", "", "ok", "# ok 1 d", "# 1..1", "pragma +strict",
]  # fmt: skip
lines = st.tuples(
    st.sampled_from(["", "  ", "    ", "\t", "      ", "# ", "[    1.000001] ", "x: "]),
    st.sampled_from(WORDS) | st.text(max_size=12),
).map("".join)
outputs = (
    st.lists(lines, max_size=40).map("\n".join).map(lambda text: text.encode("utf-8", "replace"))
)


@given(outputs | st.binary(max_size=200))
def test_nothing_that_is_printed_raises_and_every_name_is_its_own(output: bytes) -> None:
    whole = report(output)
    names = [each.path for each in whole.results]
    assert len(set(names)) == len(names)
    assert all(part and part.isprintable() for path in names for part in path)
    if whole.passed:
        # No pass without a line that says so.
        assert re.search(rb"ok|# *skip", output, re.IGNORECASE)
        assert not any(each.status.is_failure for each in whole.results)


@given(outputs, st.lists(st.integers(0, 400), max_size=6))
def test_it_does_not_matter_where_the_output_is_cut(output: bytes, cuts: list[int]) -> None:
    parser = TapParser()
    ends = [0, *sorted(cuts), len(output)]
    for start, end in pairwise(ends):
        parser.feed(output[start:end] if start <= end else b"")
        parser.results()
    assert parser.finish() == report(output)


names = st.text("abcxyz_", min_size=1, max_size=5)
trees = st.recursive(
    st.booleans(),
    lambda below: st.lists(st.tuples(names, below), min_size=1, max_size=4),
    max_leaves=12,
)


def printed(tree: object, indent: int) -> tuple[list[str], bool]:
    """KTAP of a tree: the lines, and whether all of it passed."""
    assert isinstance(tree, list)
    pad = "  " * indent
    said, passed = [f"{pad}KTAP version 1", f"{pad}1..{len(tree)}"], True
    for number, (name, below) in enumerate(tree, 1):
        ok = below
        if isinstance(below, list):
            inner, ok = printed(below, indent + 1)
            said += inner
        said.append(f"{pad}{'ok' if ok else 'not ok'} {number} {name}")
        passed = passed and ok
    return said, passed


def leaves(tree: object) -> list[bool]:
    assert isinstance(tree, list)
    return [
        leaf
        for _, below in tree
        for leaf in (leaves(below) if isinstance(below, list) else [below])
    ]


@given(st.lists(st.tuples(names, trees), min_size=1, max_size=4), st.data())
def test_every_tree_is_read_as_it_was_written(tree: list[object], data: st.DataObject) -> None:
    said, passed = printed(tree, 0)
    whole = report("\n".join(said))
    assert [each.status is P for each in whole.results] == leaves(tree)
    assert (whole.passed, whole.problems) == (passed, ())
    # Cut off before its last result it is no pass, whatever comes behind.
    kept = data.draw(st.integers(0, len(said) - 1))
    assert not report("\n".join([*said[:kept], "Kernel panic"])).passed
