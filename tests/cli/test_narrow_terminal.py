# SPDX-License-Identifier: MIT
"""What commands print on terminals of different widths: it fits, and no word is broken."""

from __future__ import annotations

import re
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from pyvmm.cli import compare, doctor_tables
from pyvmm.cli.main import main
from pyvmm.cli.standard_output import columns
from pyvmm.machine.examination import examine
from pyvmm.machine.findings import Examination
from tests.compare.wide_report import wide_report
from tests.console.on_terminal import terminal


@pytest.fixture(scope="module")
def examination() -> Examination:
    return examine()


COLOURS = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.mark.slow
def test_doctor_on_a_terminal_of_80_columns() -> None:
    with terminal() as tty:
        ioctl(tty.slave, TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        tty.run("doctor")
        assert tty.wait() in (0, 69)
        text = COLOURS.sub(b"", tty.seen).decode().replace("\r", "")
    assert max(map(len, text.splitlines())) == 80
    assert "answer: meaning" in text


@pytest.mark.parametrize(("room", "times"), [(80, 2), (126, 2), (127, 1), (200, 1)])
def test_two_designs_are_drawn_one_after_the_other_where_there_is_no_room(
    room: int, times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(room))
    assert main(["lifetime", "show", "rebind-after-free"]) == 0
    text = capsys.readouterr().out
    assert text.count("at first") == 2
    assert len([line for line in text.splitlines() if "at first" in line]) == times
    assert max(map(len, text.splitlines())) <= room


@pytest.mark.parametrize("width", range(80, 201, 30))
def test_doctor_breaks_no_word(
    width: int, examination: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(room: int) -> str:
        monkeypatch.setenv("COLUMNS", str(room))
        return doctor_tables.tables(examination)

    text = told(width)
    assert max(map(len, text.splitlines())) <= width
    assert [line for line in text.splitlines() if line.endswith(" ")] == []
    whole = {one.rstrip(":") for one in told(1000).split()}
    assert {one.rstrip(":") for one in text.split()} - whole <= {"answer", "\u2500" * (width - 2)}


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("80", 80),
        ("9999", 9999),
        (None, None),
        *((one, None) for one in ("", "0", "-1", "1_0", "x", "10000")),
    ],
)
def test_columns_without_a_terminal(
    told: str | None,
    found: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # With capsys there is no terminal.
    monkeypatch.delenv("COLUMNS", raising=False)
    if told is not None:
        monkeypatch.setenv("COLUMNS", told)
    assert columns() == found


@pytest.mark.parametrize(("told", "least", "most"), [("80", 70, 80), ("", 130, 140)])
def test_a_comparison_without_a_terminal(
    told: str,
    least: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", told)
    monkeypatch.setattr(compare, "compared", lambda *_: wide_report())
    assert main(["compare", "exit"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert least <= max(map(len, lines)) <= most
    assert [line for line in lines if line.endswith(" ")] == []
