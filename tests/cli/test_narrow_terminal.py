# SPDX-License-Identifier: MIT
"""What commands print on terminals of different widths: it fits, and no word is broken."""

from __future__ import annotations

import re
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest

from pyvmm.cli import doctor, lifetime_show
from pyvmm.cli.main import main
from pyvmm.machine.examination import Examination, examine
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


@pytest.mark.parametrize(("columns", "times"), [(80, 2), (126, 2), (127, 1), (200, 1)])
def test_two_designs_are_drawn_one_after_the_other_where_there_is_no_room(
    columns: int, times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lifetime_show, "_columns", lambda: columns)
    assert main(["lifetime", "show", "rebind-after-free"]) == 0
    text = capsys.readouterr().out
    assert text.count("at first") == 2
    assert len([line for line in text.splitlines() if "at first" in line]) == times
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("width", range(80, 201, 30))
def test_doctor_breaks_no_word(
    width: int, examination: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(columns: int) -> str:
        monkeypatch.setattr(doctor, "_WIDTH_WITHOUT_TERMINAL", columns)
        return doctor._tables(examination)

    text = told(width)
    assert max(map(len, text.splitlines())) <= width
    whole = {one.rstrip(":") for one in told(1000).split()}
    assert {one.rstrip(":") for one in text.split()} - whole <= {"answer", "\u2500" * (width - 2)}
