# SPDX-License-Identifier: MIT
"""Before the guest runs: what interrupts ends it with 130, in one line, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvmm.cli.ending_signals import EndingSignals, ending_signals
from pyvmm.cli.main import main

from .command import catches, ending, finish, start, until


@contextmanager
def reading_its_image(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has come as far as reading a FIFO which brings nothing."""
    fifo = tmp_path / "image"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    try:
        with ending(start("run", fifo, "--json", tmp_path / "out")) as process:
            files = Path(f"/proc/{process.pid}/fd")

            def has_it_open() -> bool:
                with suppress(FileNotFoundError):  # One that was just closed again.
                    return str(fifo) in [os.readlink(entry) for entry in files.iterdir()]
                return False

            until(has_it_open, "a reader")
            yield process
    finally:
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_while_it_reads_the_image(number: signal.Signals, tmp_path: Path) -> None:
    with reading_its_image(tmp_path) as process:
        process.send_signal(number)
        outcome = finish(process)
    assert (outcome.code, outcome.lines) == (130, [f"pyvmm: interrupted by {number.name}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [("run", "hang"), ("doctor",), ("guests",)])
def test_two_signals_during_imports(command: tuple[str, ...]) -> None:
    with ending(start(*command)) as process:
        until(lambda: catches(process.pid, signal.SIGTERM), "a handler")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
    assert (outcome.code, outcome.lines) == (130, ["pyvmm: interrupted by SIGINT"])


class InterruptedWhileItHolds(EndingSignals):
    """Is interrupted at the earliest moment at which there may be files."""

    def hold(self) -> None:
        super().hold()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)


def test_signal_while_files_are_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], handlers: None
) -> None:
    signals = InterruptedWhileItHolds()
    signals.exit_at_once()
    result, sock = tmp_path / "result.json", tmp_path / "sock"
    code = main(["run", "hang", "--json", str(result), "--console", f"unix:{sock}"], signals)
    out, err = capfd.readouterr()
    assert (code, out, err) == (130, "", "pyvmm: interrupted by SIGTERM\n")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signal handlers as they were, after the test."""
    before = {number: signal.getsignal(number) for number in ending_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_released_signals_are_as_before(handlers: None) -> None:
    before = {number: signal.getsignal(number) for number in ending_signals()}
    signals = EndingSignals()
    signals.exit_at_once()
    assert all(signal.getsignal(number) != handler for number, handler in before.items())
    signals.release()
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.SIGTERM in before


def test_debug_shows_the_traceback_and_keeps_the_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--debug", "no-such-guest"]) == 66
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Traceback")
    assert "no-such-guest: no such file" in err.splitlines()[-1]
