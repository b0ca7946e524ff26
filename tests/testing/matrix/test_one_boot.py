# SPDX-License-Identifier: MIT
"""One boot of a matrix, from the job to its result, on the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from pyvmm.testing.drivers.driver import OutcomeKind
from pyvmm.testing.matrix.jobs import ImageFiles
from pyvmm.testing.matrix.matrix_file import parse_matrix
from pyvmm.testing.matrix.one_boot import boot
from pyvmm.testing.matrix.results import EXPLANATION, BootResult, Verdict


def booted(text: str, folder: Path = Path()) -> BootResult:
    matrix = parse_matrix(f"hosts = 'model'\nmemory = '16M'\n[[image]]\n{text}", "m.toml")
    files = ImageFiles()
    files.read(matrix, folder)
    (planned,) = matrix.boots()
    result = trio.run(boot, files.job(planned), files.contents)
    assert result.key == planned.key
    return result


def test_a_status() -> None:
    result = booted("path = 'exit'\nappend = '9'\nexpect = { status = 9 }")
    assert (result.verdict, result.reason) == (Verdict.PASSED, "")
    assert result.outcome is not None
    assert result.outcome.status == 9
    assert result.by_hand == (
        "pyvmm run exit --memory 16M --cpus 1 --host model --append 9 --timeout 60"
    )


def test_another_status() -> None:
    result = booted("path = 'exit'\nappend = '9'")
    assert result.verdict is Verdict.FAILED
    assert result.reason == "exited with 9, expected was 0"


def test_a_failure_is_explained_and_a_known_one_is_not() -> None:
    (artifact,) = booted("path = 'triple'").artifacts
    assert artifact.name == EXPLANATION
    text = artifact.content.decode()
    assert text.startswith("crashed")
    assert "rip" in text
    assert "by hand: pyvmm run triple" in text
    known = "path = 'triple'\n[[expect]]\nimages = 'triple'\nfails = 'so'"
    assert booted(known).artifacts == ()


def test_what_is_typed_and_said() -> None:
    result = booted("path = 'echo'\ninput = \"typed\\n\"\nexpect = { console = 'typed' }")
    assert result.verdict is Verdict.PASSED
    assert b"typed" in result.console


def test_an_end_by_the_console() -> None:
    result = booted("path = 'hang'\nexpect = { end = 'console', console = 'hang', regex = 'i.g' }")
    assert (result.verdict, result.reason, result.outcome) == (Verdict.PASSED, "", None)


def test_a_console_that_says_what_it_must_not_ends_the_boot() -> None:
    result = booted(
        "path = 'hang'\nexpect = { end = 'console', console = 'never', absent = 'hanging' }"
    )
    assert result.verdict is Verdict.FAILED
    assert result.reason == (
        'the console never said "never"; the console said "hanging", which it must not'
    )


def test_a_console_that_says_too_little_before_the_end() -> None:
    result = booted("path = 'hello'\nexpect = { end = 'console', console = 'Good bye' }")
    assert result.reason == (
        "it ended (exited with 0) before its console had said all; "
        'the console never said "Good bye"'
    )


@pytest.mark.parametrize("end", ["", "expect = { end = 'console', console = 'never' }"])
def test_a_time_limit(end: str) -> None:
    result = booted(f"path = 'hang'\ntimeout = 0.05\n{end}")
    assert result.verdict is Verdict.FAILED
    assert result.outcome is not None
    assert result.outcome.kind is OutcomeKind.TIME_LIMIT
    assert "time-limit: " in result.reason


def test_an_expected_panic_and_an_expected_crash() -> None:
    assert booted("path = 'panic'\nexpect = { end = 'panicked' }").verdict is Verdict.PASSED
    assert booted("path = 'triple'\nexpect = { end = 'crashed' }").verdict is Verdict.PASSED
    assert "triple fault" in booted("path = 'triple'").reason


def test_what_is_no_image_fails_and_may_be_expected_to(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x7fELF and no more")
    result = booted("path = 'x'", tmp_path)
    assert result.verdict is Verdict.FAILED
    assert result.reason.startswith("cannot ")
    assert "ELF" in result.reason
    known = booted("path = 'x'\n[[expect]]\nimages = 'x'\nfails = 'it is none'", tmp_path)
    assert known.verdict is Verdict.FAILED_AS_EXPECTED


def test_a_large_console_travels_by_its_ends() -> None:
    from pyvmm.testing.matrix.one_boot import _shortened

    assert _shortened(b"x" * 100) == b"x" * 100
    shortened = _shortened(b"a" * (256 << 10) + b"b" * 1000 + b"c" * (1 << 20))
    assert shortened == b"a" * (256 << 10) + b"\n[1000 bytes not kept]\n" + b"c" * (1 << 20)
