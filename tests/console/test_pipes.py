# SPDX-License-Identifier: MIT
"""The console on pipes and files: nothing is lost, nothing stalls, and everything has a bound."""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.machine.console.port import OUTPUT_LIMIT

from ..cli import flat
from ..cli.command import HANG, ending, finish, pyvmm, start, until, until_idle

pytestmark = [pytest.mark.kvm, pytest.mark.slow]  # each starts processes

END_OF_FILE = 0x04
"""The byte that the echo guest takes for the end."""
EVERY_BYTE = bytes(value for value in range(256) if value != END_OF_FILE)


def no_end(data: bytes) -> bytes:
    return data.replace(bytes((END_OF_FILE,)), b"\x05")


def test_every_byte_value() -> None:
    outcome = pyvmm("run", "echo", given=EVERY_BYTE)
    assert (outcome.code, outcome.out, outcome.err) == (0, EVERY_BYTE, "")


def test_no_escape_keys_without_a_terminal() -> None:
    outcome = pyvmm("run", "echo", given=b"\x01x\x01c\x01\x01")
    assert (outcome.code, outcome.out) == (0, b"\x01x\x01c\x01\x01")


@pytest.mark.slow
def test_64_kib_both_ways() -> None:
    data = no_end(random.Random(3).randbytes(1 << 16))
    outcome = pyvmm("run", "echo", given=data)
    assert (outcome.code, outcome.out, outcome.err) == (0, data, "")


def test_input_from_a_file(tmp_path: Path) -> None:
    data = no_end(random.Random(4).randbytes(5000))
    (tmp_path / "in").write_bytes(data)
    with (
        (tmp_path / "in").open("rb") as file,
        ending(start("run", "echo", stdin=file.fileno())) as process,
    ):
        outcome = finish(process)
    assert (outcome.code, outcome.out) == (0, data)


def test_no_input() -> None:
    assert pyvmm("run", "echo", given=b"") == pyvmm("run", "echo")
    outcome = pyvmm("run", "echo", prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")


def test_input_that_comes_bit_by_bit() -> None:
    read_end, write_end = os.pipe()
    with ending(start("run", "echo", stdin=read_end)) as process:
        os.close(read_end)
        assert process.stdout is not None
        for piece in (b"a", b"bc", b"d" * 100):
            os.write(write_end, piece)
            assert process.stdout.read(len(piece)) == piece
        os.close(write_end)
        assert finish(process).code == 0


def test_output_to_a_file(tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("wb") as file,
        ending(start("run", "hello", stdout=file.fileno())) as process,
    ):
        assert finish(process).code == 0
    assert (tmp_path / "out").read_bytes().startswith(b"Hello")


def test_output_is_appended_where_the_shell_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"before\n")
    with (
        (tmp_path / "out").open("ab") as file,
        ending(start("run", "hello", stdout=file.fileno())) as process,
    ):
        assert finish(process).code == 0
    assert (tmp_path / "out").read_bytes().startswith(b"before\nHello")


def test_flags_of_the_pipes_stay_as_they_are() -> None:
    # They are shared with whoever else has the same pipe.
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    try:
        with ending(start("run", "echo", stdin=in_read, stdout=out_write)) as process:
            os.write(in_write, b"x")
            assert os.read(out_read, 1) == b"x"
            for fd in (in_read, out_write):
                assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
            os.write(in_write, bytes((END_OF_FILE,)))
            assert finish(process).code == 0
    finally:
        for fd in (in_read, in_write, out_read, out_write):
            os.close(fd)


@pytest.mark.parametrize("count", [1, 100])
def test_reader_goes_away(count: int, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.ENDLESS)
    with ending(start("run", tmp_path / "image")) as process:
        assert process.stdout is not None
        assert process.stdout.read(count) == flat.counted(count)
        process.stdout.close()
        process.stdout = None
        outcome = finish(process)
    assert outcome.code == 71
    assert len(outcome.lines) == 1
    assert outcome.err.startswith("pyvmm: cannot write the guest's console to standard output: ")


def test_output_to_a_full_device() -> None:
    with (
        open("/dev/full", "wb") as full,
        ending(start("run", "hello", stdout=full.fileno())) as process,
    ):
        outcome = finish(process)
    assert outcome.code == 71
    assert len(outcome.lines) == 1
    assert "No space left" in outcome.err


PIPE_SIZE = 1 << 16
MORE_THAN_FITS = 5 * OUTPUT_LIMIT // 2


@pytest.mark.slow
def test_stalled_reader_gets_everything(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.counting(MORE_THAN_FITS))
    with ending(start("run", tmp_path / "image")) as process:
        until_idle(process.pid)
        assert process.poll() is None
        outcome = finish(process)
    assert outcome.code == 7
    assert outcome.out == flat.counted(MORE_THAN_FITS)
    assert outcome.err == ""


@pytest.mark.slow
def test_guest_goes_on_without_a_reader_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.ENDLESS)
    result = tmp_path / "result.json"
    with ending(start("run", tmp_path / "image", "--json", result)) as process:
        until_idle(process.pid)
        process.send_signal(signal.SIGTERM)
        # Read only now, so that nothing moves before.
        assert process.wait(HANG) == 130
        outcome = finish(process)
    told = json.loads(result.read_text())
    assert told["console_bytes"] >= OUTPUT_LIMIT + PIPE_SIZE
    # What waits in the buffer, what was on its way, the pipe, and what the host had posted.
    assert told["console_bytes"] <= 2 * OUTPUT_LIMIT + 4 * PIPE_SIZE
    assert told["console_bytes_unread"] == told["console_bytes"] - len(outcome.out)
    assert f"{told['console_bytes_unread']} bytes of the guest's console were not read" in (
        outcome.err
    )
    assert outcome.out == flat.counted(len(outcome.out))


@pytest.mark.slow
def test_end_of_the_guest_waits_for_the_reader(tmp_path: Path) -> None:
    count = 2 * PIPE_SIZE
    (tmp_path / "image").write_bytes(flat.counting(count))
    with ending(start("run", tmp_path / "image")) as process:
        until_idle(process.pid)
        assert process.poll() is None
        outcome = finish(process)
    assert (outcome.code, outcome.err) == (7, "")
    assert outcome.out == flat.counted(count)


@pytest.mark.slow
def test_nobody_reads_until_the_time_limit(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.counting(2 * PIPE_SIZE))
    with ending(start("run", tmp_path / "image", "--timeout", "4")) as process:
        process.wait(HANG)
        outcome = finish(process)
    assert "were not read" in outcome.err
    assert outcome.code == 124


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal that changes nothing: its master, its slave."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, slave
    os.close(master)
    os.close(slave)


def read_until(fd: int, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        assert select.select([fd], [], [], HANG)[0], f"no more than {seen!r}"
        seen += os.read(fd, 1 << 16)
    return seen


def test_output_to_the_master_of_a_pseudo_terminal(pair: tuple[int, int]) -> None:
    master, slave = pair
    with ending(start("run", "hello", stdout=master)) as process:
        assert read_until(slave, b"command line: \n").startswith(b"Hello from a pyvmm guest\n")
        assert finish(process).code == 0


def until_full(slave: int) -> None:
    def waiting() -> int:
        return int.from_bytes(fcntl.ioctl(slave, termios.FIONREAD, bytes(4)), sys.byteorder)

    until(lambda: waiting() >= 4095, "a pseudo-terminal that takes no more")  # N_TTY_BUF_SIZE - 1


def test_more_than_fits_to_the_master_of_a_pseudo_terminal(
    pair: tuple[int, int], tmp_path: Path
) -> None:
    master, slave = pair
    count = 1 << 16
    (tmp_path / "image").write_bytes(flat.counting(count))
    with ending(start("run", tmp_path / "image", stdout=master)) as process:
        until_full(slave)
        seen = b""
        while len(seen) < count:
            assert select.select([slave], [], [], HANG)[0], f"no more than {len(seen)} bytes"
            seen += os.read(slave, 1 << 16)
        assert seen == flat.counted(count)
        assert finish(process).code == 7


def test_nobody_reads_a_pseudo_terminal_and_it_ends_all_the_same(
    pair: tuple[int, int], tmp_path: Path
) -> None:
    master, slave = pair
    (tmp_path / "image").write_bytes(flat.ENDLESS)
    with ending(start("run", tmp_path / "image", stdout=master)) as process:
        until_full(slave)
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 130


def test_input_from_the_master_of_a_pseudo_terminal(pair: tuple[int, int]) -> None:
    master, slave = pair
    with ending(start("run", "echo", stdin=master)) as process:
        os.write(slave, b"hello\x04")
        outcome = finish(process)
    assert (outcome.code, outcome.out, outcome.err) == (0, b"hello", "")


def test_console_none() -> None:
    outcome = pyvmm("run", "hello", "--console", "none")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    # And its input is at its end.
    assert pyvmm("run", "echo", "--console", "none").code == 0


def test_console_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"x" * 10000)
    outcome = pyvmm("run", "hello", "--console", f"file:{out}", given=b"typed")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    assert out.read_bytes().startswith(b"Hello from a pyvmm guest\n")
    assert out.read_bytes().endswith(b"command line: \n")


def test_console_to_a_file_that_a_bad_image_leaves_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    (tmp_path / "image").write_bytes(b"\x7fELF")
    outcome = pyvmm("run", tmp_path / "image", "--console", f"file:{out}")
    assert outcome.code == 65
    assert out.read_bytes() == b"precious"


def test_console_to_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        outcome = pyvmm("run", "hello", "--console", f"file:{fifo}")
        assert (outcome.code, outcome.err) == (0, "")
        assert os.read(reader, 4096).startswith(b"Hello")
    finally:
        os.close(reader)
    outcome = pyvmm("run", "hello", "--console", f"file:{fifo}")  # nobody reads it now
    assert (outcome.code, len(outcome.lines)) == (71, 1)


def test_many_runs_at_once() -> None:
    processes = [start("run", "hello") for _ in range(4)]
    for process in processes:
        with ending(process):
            outcome = finish(process)
        assert outcome.code == 0
        assert outcome.out.startswith(b"Hello")
    until(lambda: all(process.poll() is not None for process in processes), "all have ended")
