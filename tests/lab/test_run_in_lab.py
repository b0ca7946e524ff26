# SPDX-License-Identifier: MIT
"""A command in the lab behaves as it does here: output, status, signals, arguments, environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.kernel_matrix import try_matrix
from pyvmm.rules.profile import MAINLINE
from tests.lab.places import HANG, PYVMM, ROOT, LabAtHand

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]

ALL_BYTES = bytes(range(256))
MANY = ALL_BYTES * 40960
"""10 MiB."""


_COMMAND_LINES = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (["true"], b""),
        (["false"], b""),
        (sh("exit 200"), b""),
        (["printf", "%s\\n", "a b", "", "c\nd", "'\"\\", "*", "$HOME", "--", "-x", "é"], b""),
        ([b"printf", b"%s", b"\xff\xfe"], b""),
        (["cat"], ALL_BYTES),
        (["cat"], b""),
        (["cat"], MANY),
        (["wc", "-c"], MANY),
        (["head", "-c", "10000000", "/dev/zero"], b""),
        (sh("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"), b""),
        (sh("echo out; echo err >&2; echo out2; exit 3"), b""),
        (["head", "-c", "3"], MANY),
        (sh("exec 0<&-; echo still here"), MANY),
        (sh("kill -TERM $$"), b""),
        (sh("kill -KILL $$"), b""),
        (sh("kill -SEGV $$"), b""),
        (sh("kill -PIPE $$"), b""),
        (sh("kill -INT $$"), b""),
        (["pwd"], b""),
        (sh("umask"), b""),
        (sh("test -t 0; echo $?; test -t 1; echo $?; test -t 2; echo $?"), b""),
        (sh("trap 'echo got it' TERM; kill -TERM $$; echo after"), b""),
        (sh("(sleep 30 >/dev/null 2>&1 </dev/null &) ; echo not waiting"), b""),
        (["ls", "/proc/self/fd"], b""),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_same_inside_as_outside(lab: LabAtHand, command: list[str], given: bytes) -> None:
    assert lab.inside(command, given=given) == lab.outside(command, given=given)


def test_closed_standard_input_is_closed_inside(lab: LabAtHand) -> None:
    inside = lab.inside(["cat"], given=None)
    outside = lab.outside(["cat"], given=None)
    assert inside == outside
    assert inside.code != 0


@pytest.mark.parametrize(
    ("script", "redirection", "code"),
    [
        ("echo out", ">/dev/full", 71),
        ("echo out; exit 3", ">/dev/full", 3),
        ("echo err >&2", "2>/dev/full", 0),
    ],
)
def test_output_that_has_no_room_here(
    lab: LabAtHand, script: str, redirection: str, code: int
) -> None:
    line = ["sh", "-c", f'"$@" {redirection}', "sh", PYVMM, "lab", "run", "--", *sh(script)]
    outcome = lab.outside(line)
    assert outcome.code == code
    complaint = b"pyvmm: cannot write the command's output: No space left on device\n"
    assert outcome.err == (complaint if redirection[0] == ">" else b"")


def test_the_environment_arrives_whole(lab: LabAtHand) -> None:
    odd = {"ODD": "a b\nc='\"$(x)", "EMPTY": "", "UNICODE": "ü€", "LONG": "x" * 100_000}
    inside = lab.inside(["env", "-0"], env=odd)
    outside = lab.outside(["env", "-0"], env=odd)
    assert sorted(inside.out.split(b"\0")) == sorted(outside.out.split(b"\0"))


def test_the_directory_is_the_same(lab: LabAtHand) -> None:
    place = ROOT / "pyvmm" / "lab"
    assert lab.inside(["pwd"], cwd=place).out == f"{place}\n".encode()


@pytest.mark.parametrize(
    ("name", "code"),
    [("no-such-command", 127), ("/no/such/file", 127), ("", 127), ("/etc/passwd", 126), ("/", 126)],
)
def test_what_cannot_be_executed(lab: LabAtHand, name: str, code: int) -> None:
    done = lab.inside([name])
    assert done.code == code
    assert done.out == b""
    assert done.err.count(b"\n") == 1
    assert done.err.startswith(b"pyvmm: cannot run")


def test_a_reader_that_goes_away_ends_the_command_by_sigpipe(lab: LabAtHand) -> None:
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "yes"], stdout=subprocess.PIPE, cwd=ROOT, env=lab.env
    )
    assert command.stdout is not None
    with command, command.stdout as pipe:
        assert pipe.read(100) == b"y\n" * 50
        pipe.close()
        assert command.wait(HANG) == -signal.SIGPIPE


def test_a_slow_reader_holds_up_nobody_else(lab: LabAtHand) -> None:
    stalled = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "yes"], stdout=subprocess.PIPE, cwd=ROOT, env=lab.env
    )
    try:
        time.sleep(1)
        assert lab.inside(["cat"], given=ALL_BYTES * 4096).out == ALL_BYTES * 4096
    finally:
        stalled.kill()
        stalled.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(lab: LabAtHand, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "sh", "-c",
         f"trap 'echo caught; exit 7' {name}; echo ready; while :; do sleep 0.1; done"],
        stdout=subprocess.PIPE, cwd=ROOT, env=lab.env,
    )  # fmt: skip
    assert command.stdout is not None
    with command:
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(number)
        assert command.stdout.readline() == b"caught\n"
        assert command.wait(HANG) == 7


def test_a_killed_client_takes_its_command_along(lab: LabAtHand) -> None:
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "sh", "-c", "echo ready; exec sleep 4321"],
        stdout=subprocess.PIPE, cwd=ROOT, env=lab.env,
    )  # fmt: skip
    assert command.stdout is not None
    with command:
        assert command.stdout.readline() == b"ready\n"
        command.kill()
    deadline = time.monotonic() + HANG
    while b"sleep 4321" in (seen := lab.inside(sh(_COMMAND_LINES)).out):
        assert time.monotonic() < deadline, seen
    status = json.loads(lab.pyvmm("lab", "status", "--json").out)
    assert status["commands"] == 0


def test_what_changes_outside_is_seen_inside(lab: LabAtHand) -> None:
    place = ROOT / ".lab-test-file"
    try:
        for text in ("one\n", "two\n", "three!\n"):
            place.write_text(text)
            assert lab.inside(["cat", str(place)]).out == text.encode()
    finally:
        place.unlink()
    assert lab.inside(["test", "-e", str(place)]).code == 1


def test_the_root_is_read_only_and_scratch_is_not(lab: LabAtHand) -> None:
    assert b"Read-only" in lab.inside(["touch", str(ROOT / "never")]).err
    for place in ("/tmp", "/var/tmp", "/run", "/dev/shm"):
        assert lab.inside(sh(f"echo x > {place}/pyvmm-scratch && cat {place}/pyvmm-scratch")) == (
            lab.outside(["echo", "x"])
        )
        assert not Path(place, "pyvmm-scratch").exists()


def test_doctor_shows_private_memory(lab: LabAtHand) -> None:
    done = lab.inside(["pyvmm", "doctor", "--json"], env={"PATH": _path()})
    assert done.code == 0, done.err
    told = json.loads(done.out)
    uses = {one["use"]: one["verdict"] for one in told["consequences"]}
    assert uses["private memory"] == "has"
    with ModelSystem(MAINLINE) as model:
        assert told["matrix"] == try_matrix(model).to_json(), "the model knows all that it does"


def _path() -> str:
    return f"{Path(PYVMM).parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("program", ["hello", "exit", "panic", "no-such-image"])
def test_guests_run_as_they_do_here(lab: LabAtHand, program: str) -> None:
    command = [PYVMM, "run", program, "--timeout", "60"]
    inside, outside = lab.inside(command), lab.outside(command)
    assert (inside.code, inside.out) == (outside.code, outside.out)
    assert lab.pyvmm("run", "--host", "lab", program).code == outside.code


def test_a_preloaded_pyvmm_is_as_one_that_was_executed(lab: LabAtHand, checkout: str) -> None:
    for arguments in (["--version"], ["guests"], ["run"], ["nonsense"]):
        forked = lab.inside([PYVMM, *arguments])
        # Another command in front of it keeps it from being recognised. Files are told of by path.
        place = ROOT if arguments == ["guests"] else checkout
        assert forked == lab.inside(["env", f"PYTHONPATH={place}", PYVMM, *arguments])
