# SPDX-License-Identifier: MIT
"""A matrix's results as every report lays them out: each boot once, whatever became of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.json_report import to_json
from pyvmm.testing.matrix.results import Verdict
from pyvmm.testing.matrix.summary import Summary, summarise
from pyvmm.testing.matrix.terminal import to_text
from tests.testing.matrix.made import boots, result


def summary() -> Summary:
    """Seven boots, of which one passed twice over, one was not run, and so on."""
    planned = boots()
    verdicts = [
        (Verdict.PASSED, ""), (Verdict.FAILED, "exited with 1, expected was 0"),
        (Verdict.FAILED_AS_EXPECTED, "known (a)"), (Verdict.SKIPPED, "no /dev/kvm"),
        (Verdict.LOST, "its process was ended by SIGKILL"), (Verdict.SKIPPED, "no /dev/kvm"),
    ]  # fmt: skip
    results = [result(boot, *each) for boot, each in zip(planned, verdicts, strict=False)]
    results[1] = replace(results[1], console=b"one\n\x1b[2Jtwo\n" * 9, by_hand="pyvmm run x")
    return summarise("m.toml", "this machine", 1.5, planned, results)


def test_the_layout_has_each_boot_and_counts_each_once() -> None:
    found = summary()
    assert found.hosts == (HostName.MODEL, HostName.KVM)
    assert [(row.image, row.memory, row.cpus) for row in found.rows] == [
        ("exit", "64M", 1), ("exit", "1G", 1), ("echo", "64M", 1), ("echo", "1G", 1),
    ]  # fmt: skip
    assert found.rows[3].cells[1] is None
    assert found.counts == {
        Verdict.PASSED: 1, Verdict.FAILED_AS_EXPECTED: 1, Verdict.SKIPPED: 2, Verdict.FAILED: 1,
        Verdict.LOST: 1, Verdict.NOT_RUN: 1,
    }  # fmt: skip
    assert sum(found.counts.values()) == len(boots())
    assert not found.is_as_expected
    assert found.sentence == (
        "7 boots in 1.5 s on this machine: 1 passed, 1 known failure, 2 skipped, 1 FAILED, 1 LOST, "
        "1 NOT RUN"
    )


def test_more_than_one_is_plural() -> None:
    planned = boots()[:3]
    verdicts = [Verdict.PASSED, Verdict.FAILED_AS_IT_MAY, Verdict.FAILED_AS_IT_MAY]
    results = [result(boot, verdict) for boot, verdict in zip(planned, verdicts, strict=True)]
    found = summarise("m", "here", 1, planned, results)
    assert found.sentence == "3 boots in 1.0 s on here: 1 passed, 2 allowed failures"


def test_no_boot_counts_twice_and_none_comes_from_elsewhere() -> None:
    planned = boots()
    one = result(planned[0])
    with pytest.raises(ValueError, match="two results of exit/64M-1cpu-model"):
        summarise("m", "here", 0, planned, [one, one])
    with pytest.raises(ValueError, match="which is no boot of the matrix"):
        summarise("m", "here", 0, planned, [replace(one, key="x/64M-1cpu-kvm")])


def words(text: str) -> list[str]:
    """Lines, with one blank for each gap."""
    return [" ".join(line.split()) for line in text.split("\n")]


def test_the_table_and_the_reasons() -> None:
    text = to_text(summary(), is_terminal=False, width=80)
    lines = [line.rstrip() for line in text.split("\n")]
    table = words(text)
    assert "exit 64M 1 passed 0.25 s FAILED 0.25 s" in table
    assert "exit 1G 1 known 0.25 s skipped" in table
    assert "echo 64M 1 LOST skipped" in table
    assert "echo 1G 1 NOT RUN -" in table
    failed = lines.index("exit/64M-1cpu-kvm: FAILED: exited with 1, expected was 0")
    assert lines[failed + 1 : failed + 4] == [
        "    ... 12 lines before", "    | one", "    | \\x1b[2Jtwo",
    ]  # fmt: skip
    assert lines[failed + 8] == "    by hand: pyvmm run x"
    assert "exit/1G-1cpu-kvm and 1 more: skipped: no /dev/kvm" in lines
    assert "exit/1G-1cpu-model: known failure: known (a)" in lines
    assert " ".join(lines[-2:]) == summary().sentence
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text


def test_a_table_without_room_becomes_lines() -> None:
    text = to_text(summary(), is_terminal=False, width=45)
    assert "exit, 64M, 1 model passed 0.25 s" in words(text)
    assert "kvm FAILED 0.25 s" in words(text)
    assert max(map(len, text.split("\n"))) <= 45


def test_of_a_large_matrix_the_table_has_what_is_wrong() -> None:
    text = f"hosts = 'kvm'\nmemory = {[f'{size}M' for size in range(2, 401)]}\n[[image]]\n"
    planned = boots(text + "path = 'exit'\n")
    results = [result(boot) for boot in planned]
    results[7] = result(planned[7], Verdict.FAILED, "so")
    shown = to_text(summarise("m", "here", 9, planned, results), is_terminal=False)
    assert "399 rows; of those with something that is not as expected, 1" in shown
    assert "exit/9M-1cpu-kvm: FAILED" in shown
    assert "10M" not in shown


def test_json_has_every_boot_with_what_is_known_of_it() -> None:
    found = json.loads(json.dumps(to_json(summary())))
    assert found["as_expected"] is False
    assert [one["boot"] for one in found["boots"]] == [boot.key for boot in boots()]
    assert found["boots"][1] == {
        "image": "exit",
        "memory": "64M",
        "cpus": 1,
        "host": "kvm",
        "boot": "exit/64M-1cpu-kvm",
        "verdict": "FAILED",
        "as_expected": False,
        "reason": "exited with 1, expected was 0",
        "end": {
            "kind": "exited", "detail": "", "status": 0, "seconds": 0.25, "exits": {"io": 3},
        },
        "seconds": 0.25,
        "place": "",
        "attempts": 1,
        "by_hand": "pyvmm run x",
        "console": "one\n\x1b[2Jtwo\n" * 9,
    }  # fmt: skip


def test_a_console_without_a_newline_is_shown_in_part_and_every_line_marked() -> None:
    planned = boots()
    said = b"beginning" + b"x" * 200_000 + b"\x1b\tthe end"
    results = [replace(result(planned[0], Verdict.FAILED), console=said)]
    text = to_text(summarise("m", "here", 0, planned, results), is_terminal=False, width=80)
    shown = [line for line in text.splitlines() if "xxx" in line or "the end" in line]
    assert 3 <= len(shown) <= 4
    assert all(line.startswith("    | ") and len(line) <= 80 for line in shown)
    assert shown[0].startswith("    | beginningxxx")
    assert shown[-1].endswith("the end")
    assert text.count("...") == 1
