# SPDX-License-Identifier: MIT
"""How each guest's end becomes the command's: exit code, standard error, and ``--json``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..boot.images import ENTRY, Segment, elf, multiboot_header, pvh
from . import flat
from .command import HANG, PYVMM, ending, finish, pyvmm, start

pytestmark = [pytest.mark.kvm, pytest.mark.slow]  # each starts processes

X87_ADD_FROM_MMIO = bytes.fromhex("d805000000d0") + flat.exiting(0)
"""fadd dword [0xd0000000]: KVM's instruction emulator, which MMIO needs, has no such thing."""


def emulation_failure() -> bytes:
    return pvh(segments=[Segment(ENTRY, X87_ADD_FROM_MMIO)])


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def assert_reported(err: str) -> None:
    """A crash report: registers, code, page tables (in long mode), the last exits."""
    assert "vCPU 0: " in err
    assert "  rip " in err
    assert "  cr0 " in err
    assert "  code at rip: " in err
    assert "  last exits, oldest first (" in err


# The bundled guests.


def test_hello() -> None:
    outcome = pyvmm("run", "hello", "--append", "one two=3 'x' é")
    assert outcome.code == 0
    assert outcome.out.startswith(b"Hello from a pyvmm guest\n")
    assert "command line: one two=3 'x' é\n".encode() in outcome.out
    assert outcome.err == ""


def test_hello_by_path_and_memory() -> None:
    guests = pyvmm("guests").out.decode().split()
    path = guests[guests.index("hello") + 1]
    outcome = pyvmm("run", path, "-m", "64M")
    assert (outcome.code, outcome.err) == (0, "")
    assert b"memory 0000100000-0004000000 usable\n" in outcome.out


def test_a_file_goes_before_a_bundled_guest(tmp_path: Path) -> None:
    written(tmp_path / "hello", flat.exiting(9))
    assert pyvmm("run", "hello", cwd=tmp_path).code == 9


def test_a_folder_does_not_go_before_a_bundled_guest(tmp_path: Path) -> None:
    (tmp_path / "exit").mkdir()
    assert pyvmm("run", "exit", "--append", "9", cwd=tmp_path).code == 9


@pytest.mark.parametrize("status", [0, 7, 63])
def test_status(status: int) -> None:
    outcome = pyvmm("run", "exit", "--append", str(status))
    assert (outcome.code, outcome.out, outcome.err) == (status, b"", "")


@pytest.mark.parametrize("status", ["64", "255"])
def test_status_beyond_the_guests_own(status: str) -> None:
    outcome = pyvmm("run", "exit", "--append", status)
    assert (outcome.code, outcome.out) == (83, b"")
    assert f"wrote {status} to its exit port" in outcome.lines[0]


@pytest.mark.parametrize("status", ["256", "300", "-5", "word -1", "18446744073709551617"])
def test_status_that_is_none(status: str) -> None:
    outcome = pyvmm("run", "exit", f"--append={status}")
    assert outcome.code == 83
    assert outcome.out.startswith(b"exit: out of range, a status is 0 to 63: ")
    assert outcome.out.endswith(status.rsplit(maxsplit=1)[-1].encode() + b"\n")
    assert "wrote 255 to its exit port" in outcome.lines[0]


def test_panic() -> None:
    outcome = pyvmm("run", "panic", "--append", "why")
    assert outcome.code == 81
    assert outcome.out == b"PANIC: asked to (why)\n"
    assert outcome.lines == ["pyvmm: the guest reported a panic"]


def test_fault() -> None:
    outcome = pyvmm("run", "fault")
    assert outcome.code == 81
    assert b"EXCEPTION 14: #PF" in outcome.out
    assert b"cr2=0000123456789000" in outcome.out
    assert outcome.lines == ["pyvmm: the guest reported a panic"]


def test_triple_fault() -> None:
    outcome = pyvmm("run", "triple")
    assert outcome.code == 80
    assert outcome.out == b"triple fault\n"
    assert outcome.lines[0] == "pyvmm: triple fault on vCPU 0"
    assert_reported(outcome.err)
    assert "SHUTDOWN" in outcome.lines[-1]
    # Some KVMs (AMD's, mostly) reset the processor on a triple fault; then there is little to see.
    if "the processor has been reset" not in outcome.err:
        assert "64-bit mode" in outcome.err
        assert "code at rip: 0f 0b" in outcome.err  # ud2
        assert "page tables for 0x" in outcome.err
        assert "PML4E at 0x" in outcome.err


def test_time_limit() -> None:
    for seconds in ("0.3", "3", "30"):
        outcome = pyvmm("run", "hang", "--timeout", seconds)
        assert outcome.code == 124
        if outcome.out:  # On a busy machine the guest may not get that far in so short a time.
            break
    assert outcome.out == b"hanging\n"
    assert outcome.lines[0] == f"pyvmm: the guest was still running after {seconds} s"
    assert_reported(outcome.err)
    assert "code at rip: eb fe" in outcome.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signal(number: signal.Signals, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    with ending(start("run", "hang", "--json", result)) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"hanging\n"
        process.send_signal(number)
        outcome = finish(process)
    assert outcome.code == 130
    assert outcome.lines == [f"pyvmm: interrupted by {number.name}"]
    assert json.loads(result.read_text())["ending"] == "interrupted"


def test_many_signals() -> None:
    with ending(start("run", "hang")) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"hanging\n"
        for _ in range(5):
            process.send_signal(signal.SIGTERM)
        outcome = finish(process)
    assert outcome.code == 130
    assert outcome.lines == ["pyvmm: interrupted by SIGTERM"]


def test_ignored_interrupts_stay_ignored() -> None:
    # A shell without job control starts `command &` so.
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = start("run", "exit", "--append", "5", preparation=ignore)
    with ending(process):
        for _ in range(50):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert finish(process).code == 5


@pytest.mark.parametrize("guest", ["timer", "ring3"])
def test_runs_well(guest: str) -> None:
    outcome = pyvmm("run", guest)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


def test_memory_test() -> None:
    outcome = pyvmm("run", "memtest", "-m", "8M")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith(b"no errors\n")


# Flat guests.


@pytest.mark.parametrize("status", [0, 1, 42, 63])
def test_status_of_a_flat_guest(status: int, tmp_path: Path) -> None:
    outcome = pyvmm("run", written(tmp_path / "image", flat.exiting(status)))
    assert (outcome.code, outcome.out, outcome.err) == (status, b"", "")


@pytest.mark.parametrize("value", [64, 200, 255])
def test_status_beyond_the_range(value: int, tmp_path: Path) -> None:
    outcome = pyvmm("run", written(tmp_path / "image", flat.exiting(value)))
    assert outcome.code == 83
    assert f"wrote {value} to its exit port" in outcome.lines[0]
    assert_reported(outcome.err)


def test_halt_without_interrupts(tmp_path: Path) -> None:
    outcome = pyvmm("run", written(tmp_path / "image", flat.HALT))
    assert outcome.code == 80
    assert "halted" in outcome.lines[0]
    assert_reported(outcome.err)


def test_halt_with_interrupts_waits(tmp_path: Path) -> None:
    image = written(tmp_path / "image", flat.HALT)
    outcome = pyvmm("run", image, "--irqchip", "on", "--timeout", "0.3")
    assert outcome.code == 124


@pytest.mark.parametrize("image", [flat.RESET_BY_KEYBOARD, flat.RESET_BY_CF9])
def test_reset(image: bytes, tmp_path: Path) -> None:
    outcome = pyvmm("run", written(tmp_path / "image", image))
    assert (outcome.code, outcome.out) == (84, b"")
    assert outcome.lines == ["pyvmm: the guest reset its machine"]


def test_emulation_failure(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    outcome = pyvmm("run", written(tmp_path / "image", emulation_failure()), "--json", result)
    ended = json.loads(result.read_text())["ending"]
    if outcome.code == 0:
        pytest.skip("this host's KVM can emulate an x87 addition from MMIO")
    assert outcome.code == 80
    if ended == "triple-fault":
        # The instruction was refused as an undefined one, and the guest has no handlers.
        assert "triple fault" in outcome.lines[0]
    else:
        assert ended == "kvm-internal-error"
        assert "emulation failed" in outcome.lines[0]
        assert "code at rip: d8 05 00 00 00 d0" in outcome.err
    assert_reported(outcome.err)


# What is written besides.


@pytest.mark.parametrize(
    ("arguments", "expected", "reports"),
    [
        (("hello",), {"ending": "exited", "status": 0, "exit_code": 0}, 0),
        (("exit", "--append", "7"), {"ending": "exited", "status": 7, "exit_code": 7}, 0),
        (("panic",), {"ending": "panicked", "status": None, "exit_code": 81}, 0),
        (("triple",), {"ending": "triple-fault", "status": None, "exit_code": 80}, 1),
        (
            ("hang", "--timeout", "0.2"),
            {"ending": "time-limit", "status": None, "exit_code": 124},
            1,
        ),
        ((flat.exiting(200),), {"ending": "bad-status", "status": None, "exit_code": 83}, 1),
        ((flat.HALT,), {"ending": "halted", "status": None, "exit_code": 80}, 1),
        ((flat.RESET_BY_CF9,), {"ending": "reset", "status": None, "exit_code": 84}, 0),
    ],
)
def test_json(
    arguments: tuple[Any, ...], expected: dict[str, object], reports: int, tmp_path: Path
) -> None:
    image, *rest = arguments
    if isinstance(image, bytes):
        image = written(tmp_path / "image", image)
    result = tmp_path / "result.json"
    result.write_text("something older and longer" * 1000)
    outcome = pyvmm("run", image, *rest, "-m", "8M", "--json", result)
    told = json.loads(result.read_text())
    assert {key: told[key] for key in expected} == expected
    assert outcome.code == told["exit_code"]
    assert told["memory_bytes"] == 8 << 20
    assert told["console_bytes"] == len(outcome.out)
    assert told["console_bytes_unread"] == 0
    assert told["seconds"] > 0
    assert sum(told["exits"].values()) > 0
    assert told["detail"]
    assert len(told["vcpus"]) == reports
    for vcpu in told["vcpus"]:
        assert vcpu["index"] == 0
        assert {"rip", "rsp", "rflags", "cr0", "cr3", "efer"} <= set(vcpu["registers"])
        assert vcpu["last_exits"]


def test_json_counts_what_nobody_claims(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    image = written(tmp_path / "image", flat.UNCLAIMED_PORT)
    assert pyvmm("run", image, "--json", result).code == 0
    assert json.loads(result.read_text())["unclaimed_ports"] == {"0x1234": 2}


def test_json_to_a_pipe() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as reader:
        process = subprocess.Popen(
            [*PYVMM, "run", "exit", "--json", f"/dev/fd/{write_end}"],
            stdin=subprocess.DEVNULL,
            pass_fds=[write_end],
        )
        os.close(write_end)
        with ending(process):
            assert json.load(reader)["ending"] == "exited"
            assert process.wait(HANG) == 0


def test_json_to_the_file_that_has_the_console(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        file.write(b"precious\n")
        file.flush()
        arguments = ("run", "hello", "--json", "/dev/stdout")
        with ending(start(*arguments, stdout=file.fileno())) as process:
            outcome = finish(process)
        assert (outcome.code, len(outcome.lines)) == (64, 1)
        assert "standard output would go there, too" in outcome.err
        assert out.read_bytes() == b"precious\n"
        # Nothing speaks against it where the console goes elsewhere.
        with ending(start(*arguments, "--console", "none", stdout=file.fileno())) as process:
            assert finish(process).code == 0
    assert json.loads(out.read_text())["status"] == 0


def test_json_and_console_to_nowhere() -> None:
    outcome = pyvmm("run", "hello", "--console", "file:/dev/null", "--json", "/dev/null")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")


def test_verbose() -> None:
    outcome = pyvmm("run", "exit", "-m", "8M", "-v")
    assert (outcome.code, outcome.out) == (0, b"")
    assert outcome.lines[0].startswith("pyvmm: memory: 8192 KiB, ")


def test_verbose_tells_what_an_image_does_not_get(tmp_path: Path) -> None:
    code = Segment(ENTRY, flat.exiting(5))
    image = written(tmp_path / "video.img", elf([code], multiboot=multiboot_header(7), bits=32))
    outcome = pyvmm("run", image, "-v", "--irqchip", "off")
    assert (outcome.code, outcome.out) == (5, b"")
    assert outcome.lines[1:] == [
        "pyvmm: its Multiboot header asks for a video mode, and none is set"
    ]
    assert pyvmm("run", image, "--irqchip", "off").err == ""


@pytest.mark.parametrize("how", ["1>&-", "2>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors(how: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    outcome = pyvmm(
        "run", "exit", "--append", "3", "--json", result, prefix=_shell(f'exec "$@" {how}')
    )
    assert (outcome.code, outcome.out, outcome.err) == (3, b"", "")
    assert json.loads(result.read_text())["status"] == 3


def test_nobody_reads_the_errors(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with ending(start("run", "panic", stderr=write_end)) as process:
            assert finish(process).code == 81
        with ending(start("run", "no-such-guest", stderr=write_end)) as process:
            assert finish(process).code == 66
    finally:
        os.close(write_end)


def _shell(script: str) -> list[str]:
    return ["sh", "-c", script, "sh"]


def test_an_image_that_is_larger_than_memory_but_not_what_is_loaded(tmp_path: Path) -> None:
    image = written(tmp_path / "large.img", pvh(segments=[Segment(ENTRY, flat.exiting(9))]))
    os.truncate(image, 100 << 20)
    assert pyvmm("run", image, "-m", "8M").code == 9


def test_an_image_that_comes_later(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start("run", fifo)
    with ending(process):
        fd = os.open(fifo, os.O_WRONLY)  # returns when it has been opened for reading
        os.write(fd, flat.exiting(9))
        os.close(fd)
        assert finish(process).code == 9


def test_interrupted_while_it_waits_for_an_image(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start("run", fifo)
    with ending(process):
        fd = os.open(fifo, os.O_WRONLY)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        os.close(fd)
    assert (outcome.code, outcome.err) == (130, "pyvmm: interrupted by SIGINT\n")
