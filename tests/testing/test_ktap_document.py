# SPDX-License-Identifier: MIT
"""KTAP that we write, as our own parser and others read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyvmm.testing.results.ktap_document import MAX_DEPTH, _name, ktap_document
from pyvmm.testing.results.tap import TapParser
from pyvmm.testing.results.tap_results import TapReport, TapResult, TapStatus

RESULTS = [
    TapResult(("a.py", "test_one"), TapStatus.PASSED),
    TapResult(("a.py", "Class", "test_two[x-1]"), TapStatus.FAILED, "assert 1 == 2", ("E  1", "")),
    TapResult(("a.py", "Class", "test_three"), TapStatus.SKIPPED, "no kvm"),
    TapResult(("b.py", "test"), TapStatus.XFAILED, "known"),
    TapResult(("c.img", "boot"), TapStatus.PASSED),
    TapResult(("c.img", "s", "x"), TapStatus.CRASHED, "gone\nfor good"),
    TapResult(("d.py", "only"), TapStatus.SKIPPED, "why"),
]
DOCUMENT = """\
KTAP version 1
1..4
  KTAP version 1
  # Subtest: a.py
  1..2
  ok 1 test_one
    KTAP version 1
    # Subtest: Class
    1..2
    # | E  1
    # |
    not ok 1 test_two[x-1] # assert 1 == 2
    ok 2 test_three # SKIP no kvm
  not ok 2 Class
not ok 1 a.py
  KTAP version 1
  # Subtest: b.py
  1..1
  ok 1 test # XFAIL known
ok 2 b.py
  KTAP version 1
  # Subtest: c.img
  1..2
  ok 1 boot
    KTAP version 1
    # Subtest: s
    1..1
    not ok 1 x # ERROR gone for good
  not ok 2 s
not ok 3 c.img
  KTAP version 1
  # Subtest: d.py
  1..1
  ok 1 only # SKIP why
ok 4 d.py # SKIP
# Totals: pass:2 fail:1 xfail:1 skip:2 error:1
"""


def parsed(text: str) -> TapReport:
    parser = TapParser()
    parser.feed(text.encode())
    return parser.finish()


def test_a_document() -> None:
    assert ktap_document(RESULTS) == DOCUMENT
    report = parsed(DOCUMENT)
    assert not report.problems
    assert [(each.path, each.status.is_failure) for each in report.results] == [
        (each.path, each.status.is_failure) for each in RESULTS
    ]


def test_a_run_that_broke_off_is_no_pass() -> None:
    assert not parsed(ktap_document(RESULTS[:1], "interrupted")).passed
    assert not parsed(ktap_document([])).passed
    assert parsed(ktap_document(RESULTS[:1])).passed


words = st.text(max_size=8)
results = st.builds(
    TapResult,
    st.lists(words | st.sampled_from(["a", "b", "- c", "d # SKIP", "1..3"]), min_size=1, max_size=4)
    .map(tuple),
    st.sampled_from(TapStatus),
    words | st.sampled_from(["# SKIP", "TODO x", "a # b"]),
    st.lists(words | st.sampled_from(["ok 1 x", "KTAP version 1", "  ---"]), max_size=3).map(tuple),
)  # fmt: skip


@given(st.lists(results, max_size=8))
@example([TapResult((*path, ""), TapStatus.PASSED) for path in ((), (), ("_",))])
def test_any_results_are_written_so_that_they_can_be_read(written: list[TapResult]) -> None:
    text = ktap_document(written)
    assert all(line.isprintable() for line in text.replace("\t", "").splitlines())
    report = parsed(text)
    assert not report.problems
    assert bool(report.failures) == any(each.status.is_failure for each in written)
    # Each is there once; a test that has others below it only where it says more than they.
    assert len(report.results) <= len(written)
    paths = [tuple(map(_name, each.path)) for each in written]
    above = {path[:end] for path in paths for end in range(1, len(path))}
    assert len(report.results) >= sum(path not in above for path in paths)


def test_levels_are_bounded_and_no_result_is_lost() -> None:
    deep = [TapResult(("x",) * count, TapStatus.PASSED) for count in (MAX_DEPTH, 5000, 5001)]
    report = parsed(ktap_document([*deep, TapResult((*("x",) * 50, "y"), TapStatus.FAILED)]))
    assert not report.problems
    assert len(report.failures) == 1
    assert report.failures[0].path[-1].endswith(".x.y")
    assert max(len(each.path) for each in report.results) == MAX_DEPTH


@pytest.mark.skipif(shutil.which("prove") is None, reason="Perl's prove is not installed")
def test_perls_parser_reads_the_outermost_level(tmp_path: Path) -> None:
    for text, code, said in (
        (DOCUMENT, 1, "Failed tests:  1, 3"),
        (ktap_document(RESULTS[:1]), 0, "Result: PASS"),
        (ktap_document(RESULTS[:1], "interrupted"), 255, "interrupted"),
    ):
        path = tmp_path / "out.tap"
        path.write_text(text)
        done = subprocess.run(
            ["prove", "--source", "File", "--ext", ".tap", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done
        assert said in done.stdout + done.stderr
