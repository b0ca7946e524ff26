# SPDX-License-Identifier: MIT
from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from benchmarks import report
from benchmarks.__main__ import CATALOGUE, main
from benchmarks.baselines import ROOT
from benchmarks.figures import Sample, at_most
from benchmarks.measure import Comparison, Effort, Result, Subject, Table, take_turns
from benchmarks.process_phases import parse_import_times
from benchmarks.system_calls import parse


def subjects(log: list[str]) -> tuple[Subject, Subject]:
    def one(name: str, value: float) -> Subject:
        def sample() -> Sample:
            log.append(name)
            return {"life_ms": value * len(log)}

        return Subject(name, f"what {name} does", sample)

    return one("A", 1.0), one("B", 2.0)


def test_subjects_take_turns_after_a_warm_up_that_does_not_count() -> None:
    log: list[str] = []
    steps: list[tuple[int, int]] = []
    samples = take_turns(
        subjects(log), Effort(2, 1.0), lambda _what, done, total: steps.append((done, total))
    )
    assert log == ["A", "B"] * 3
    assert samples == {
        "A": [{"life_ms": 3}, {"life_ms": 5}],
        "B": [{"life_ms": 8}, {"life_ms": 12}],
    }
    assert steps == [(done, 6) for done in range(7)]


def result(target_limit: float, a: float = 1.0) -> Result:
    return Result(
        "name",
        "title",
        subjects([]),
        {"A": [{"life_ms": a}, {"life_ms": 2.0}], "B": [{"life_ms": 3.0}, {"life_ms": 4.0}]},
        (Comparison("life_ms", "B", "A", at_most(target_limit)), Comparison("life_ms", "B", "A")),
        [Table("more", (("a row", "12 us", "a remark"),))],
    )


@pytest.mark.parametrize(("limit", "verdict"), [(2.5, "met"), (2.4, "MISSED")])
def test_a_result_tells_its_targets(limit: float, verdict: str) -> None:
    shown = "\n".join(report.lines(result(limit)))
    assert f"life: B / A = 2.50 (2.00 .. 3.00), target <= {limit:.2f}: {verdict}" in shown
    assert "life: B / A = 2.50 (2.00 .. 3.00), for information" in shown
    assert "a row  12 us  a remark" in shown
    comparison = result(limit).to_json()["comparisons"][0]
    assert comparison["met"] is (verdict == "met")
    assert comparison["ratio"] == {"median": 2.5, "min": 2.0, "max": 3.0, "count": 2}


def test_a_clock_too_coarse_for_a_round_leaves_the_ratio_of_the_sums() -> None:
    coarse = result(3.5, a=0.0)
    assert "B / A = 3.50 (of the sums), target <= 3.50: met" in "\n".join(report.lines(coarse))


def test_a_baseline_too_small_to_measure_has_no_ratio() -> None:
    nothing = result(2.0)
    nothing.samples["A"] = [{"life_ms": 0.0}, {"life_ms": 0.0}]
    assert "too small to measure" in "\n".join(report.lines(nothing))
    assert nothing.to_json()["comparisons"][0]["ratio"] is None
    assert nothing.to_json()["comparisons"][0]["met"] is None


def test_effort_scales_down_to_one_at_least() -> None:
    assert Effort(3, 0.2).scaled(50) == 10
    assert Effort(3, 0.2).scaled(2) == 1


def test_system_calls_are_read_from_strace_s_table() -> None:
    summary = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000052           1        29         1 access
 40.00    0.000010           1         7           ioctl
------ ----------- ----------- --------- --------- ----------------
100.00    0.000062           1        36         1 total
"""
    assert parse(summary) == Counter(access=29, ioctl=7)


def test_import_times_are_read_from_what_python_writes() -> None:
    text = """\
import time: self [us] | cumulative | imported package
import time:       120 |        120 |   trio._core
the guest's own words
import time:        80 |        200 | trio
"""
    assert parse_import_times(text) == {"trio._core": 120.0, "trio": 80.0}


def test_every_benchmark_says_what_it_is() -> None:
    for name, module in CATALOGUE.items():
        assert name == module.NAME
        assert module.TITLE
        assert module.RUNS > 0


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--runs", "0"], ["--runs", "x"], ["--json", "/no/such/folder/f"]]
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.slow
def test_system_calls_of_a_function_are_counted_in_a_fork() -> None:
    script = """
import os
from benchmarks.system_calls import of_call
print(of_call(lambda: [os.getpid() for _ in range(7)]))
print(of_call(lambda: os._exit(3)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    counted, failed = done.stdout.splitlines()
    if counted == "None":
        pytest.skip("strace is not installed, or may not attach to a process here")
    assert "'getpid': 7" in counted
    assert failed == "None"
