# SPDX-License-Identifier: MIT
"""Labs come up, go down, and break; what is left, what is said, and that the next call works."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import until
from tests.lab.places import HANG, PYVMM, ROOT, LabAtHand, qemus_of

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]

CANNOT = 69
LOST = 71


def directory(lab: LabAtHand) -> Path:
    return Path(lab.env["XDG_RUNTIME_DIR"])


def wait_until_nothing_is_left(lab: LabAtHand) -> None:
    deadline = time.monotonic() + HANG
    while left := qemus_of(directory(lab)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_lab_of_its_own_for_one_command(no_lab: LabAtHand) -> None:
    assert no_lab.inside(["sh", "-c", "cat; echo err >&2; exit 5"], given=b"in") == (
        no_lab.outside(["sh", "-c", "cat; echo err >&2; exit 5"], given=b"in")
    )
    wait_until_nothing_is_left(no_lab)
    left = {path.name for path in (directory(no_lab) / "pyvmm").iterdir()}
    assert left == {"keeper.log"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["booting", "running"])
def test_nothing_survives_its_client(no_lab: LabAtHand, number: int, when: str) -> None:
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "sh", "-c", "echo ready; exec sleep 4321"],
        stdout=subprocess.PIPE, cwd=ROOT, env=no_lab.env,
    )  # fmt: skip
    assert command.stdout is not None
    with command:
        if when == "running":
            assert command.stdout.readline() == b"ready\n"
        else:
            while not qemus_of(directory(no_lab)):
                time.sleep(0.02)
        command.send_signal(number)
        assert command.wait(HANG) == -number
    wait_until_nothing_is_left(no_lab)


def test_qemu_dies_with_a_killed_keeper(no_lab: LabAtHand) -> None:
    assert no_lab.pyvmm("lab", "up").code == 0
    status = json.loads(no_lab.pyvmm("lab", "status", "--json").out)
    os.kill(status["pid"], signal.SIGKILL)
    wait_until_nothing_is_left(no_lab)
    # Its socket is still there, and nobody behind it.
    assert (directory(no_lab) / "pyvmm" / "lab.sock").exists()
    assert no_lab.pyvmm("lab", "status").code == CANNOT
    assert no_lab.inside(["true"]).code == 0
    assert no_lab.pyvmm("lab", "up").code == 0
    assert no_lab.pyvmm("lab", "status").code == 0


def test_up_and_down_and_status_again_and_again(no_lab: LabAtHand) -> None:
    assert no_lab.pyvmm("lab", "down").code == 0
    assert no_lab.pyvmm("lab", "status").code == CANNOT
    for word in (b"is up:", b"is up already:"):
        done = no_lab.pyvmm("lab", "up")
        assert done.code == 0
        assert word in done.out
    other = no_lab.pyvmm("lab", "up", "--cpus", "1")
    assert other.code == 64
    assert b"run pyvmm lab down first" in other.err
    for word in (b"the lab is down\n", b"no lab is up\n"):
        assert no_lab.pyvmm("lab", "down").out == word
    assert not qemus_of(directory(no_lab))


def test_two_at_once_bring_up_one(no_lab: LabAtHand) -> None:
    both = [
        subprocess.Popen([PYVMM, "lab", "up"], env=no_lab.env, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=HANG)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    # A keeper and its QEMU; the other's attempt may take a moment to go.
    until(lambda: len(qemus_of(directory(no_lab))) == 2, "one lab")


def test_a_panic_is_told_apart_from_a_failing_command(no_lab: LabAtHand) -> None:
    # Out of memory, where that is to be a panic. Each file system takes half of the memory only.
    done = no_lab.pyvmm(
        "lab", "run", "--memory", "256M", "--", "sh", "-c",
        "echo before; echo 2 > /proc/sys/vm/panic_on_oom; "
        "for place in /run /dev/shm /tmp /var/tmp; do cat /dev/zero > $place/full; done",
    )  # fmt: skip
    assert done.code == LOST, done
    assert done.out == b"before\n"
    line = done.err.splitlines()[-1]
    assert b"kernel panicked: Kernel panic - not syncing" in line
    log = line.split(b"log is in ")[1].strip().decode()
    assert "Kernel panic" in Path(log).read_text()
    assert no_lab.inside(["echo", "next"]).out == b"next\n"


def test_a_killed_qemu_is_told_apart(no_lab: LabAtHand) -> None:
    assert no_lab.pyvmm("lab", "up").code == 0
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "sh", "-c", "echo ready; exec sleep 4321"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=no_lab.env,
    )  # fmt: skip
    assert command.stdout is not None
    assert command.stderr is not None
    with command:
        assert command.stdout.readline() == b"ready\n"
        status = json.loads(no_lab.pyvmm("lab", "status", "--json").out)
        os.kill(status["qemu_pid"], signal.SIGKILL)
        assert command.wait(HANG) == LOST
        said = command.stderr.read()
    assert said.count(b"\n") == 1
    assert b"killed by SIGKILL" in said
    assert no_lab.inside(["echo", "next"]).out == b"next\n"


def test_a_kernel_that_is_none(no_lab: LabAtHand) -> None:
    done = no_lab.pyvmm("lab", "run", "--kernel", str(ROOT / "setup.py"), "--", "true")
    assert done.code == CANNOT
    assert done.err.count(b"\n") == 1
    gone = no_lab.pyvmm("lab", "run", "--kernel", "/no/such/kernel", "--", "true")
    assert gone.code == 66


def test_no_qemu(no_lab: LabAtHand, tmp_path: Path) -> None:
    hidden = LabAtHand({**no_lab.env, "PATH": str(tmp_path)})
    done = hidden.pyvmm("lab", "run", "--", "/bin/true")
    assert done.code == CANNOT
    assert b"qemu-system-x86_64 is not installed" in done.err.replace(b"\n", b" ") or (
        b"it is not installed" in done.err
    )


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo 'no such accelerator' >&2; exit 1", b"no such accelerator"),
        ("kill -9 $$", b"killed by SIGKILL"),
    ],
)
def test_a_qemu_that_does_not_start(
    no_lab: LabAtHand, tmp_path: Path, script: str, what: bytes
) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text(
        f'#!/bin/sh\n[ "$2" = help ] && {{ echo tcg virtio-9p-pci virtserialport; '
        f"exit 0; }}\n{script}\n"
    )
    fake.chmod(0o755)
    env = {**no_lab.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = LabAtHand(env).inside(["true"])
    assert done.code == CANNOT
    assert done.err.count(b"\n") == 1
    assert what in done.err


def test_a_qemu_without_tcg_or_9p(no_lab: LabAtHand, tmp_path: Path) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    env = {**no_lab.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for has, lacks in (("kvm virtserialport virtio-9p-pci", b"TCG"), ("tcg virtserialport", b"9p")):
        fake.write_text(f'#!/bin/sh\n[ "$2" = help ] && {{ echo {has}; exit 0; }}\nexit 1\n')
        fake.chmod(0o755)
        done = LabAtHand(env).inside(["true"])
        assert done.code == CANNOT
        assert lacks in done.err


def test_named_folders_are_writable(no_lab: LabAtHand, tmp_path: Path) -> None:
    place = ROOT / ".lab-test-folder"
    place.mkdir(exist_ok=True)
    try:
        done = no_lab.pyvmm(
            "lab", "run", "--writable", str(place), "--", "sh", "-c", f"echo new > {place}/file"
        )
        assert done.code == 0, done.err
        assert (place / "file").read_text() == "new\n"
    finally:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    assert no_lab.pyvmm("lab", "run", "--writable", "/no/such", "--", "true").code == 66


def test_on_a_terminal(lab: LabAtHand) -> None:
    master, slave = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=slave, check=True)
    before = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
    command = subprocess.Popen(
        [PYVMM, "lab", "run", "--", "sh", "-c",
         "tty; stty size; stty -g >/dev/null && echo ok; trap 'echo int; exit 9' INT; "
         "echo ready; while :; do sleep 0.1; done"],
        stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=lab.env, start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509
    )  # fmt: skip
    seen = b""
    try:
        seen = _read_until(master, b"ready")
        assert b"/dev/pts/" in seen
        assert b"33 77" in seen
        os.write(master, b"\x03")
        seen += _read_until(master, b"int")
        assert command.wait(HANG) == 9
        after = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
        assert after == before
    finally:
        command.kill()
        command.wait()
        os.close(master)
        os.close(slave)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(fd: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        seen += os.read(fd, 4096)
    return seen


def test_a_folder_under_tmp_is_there_if_the_lab_is_started_in_it(
    no_lab: LabAtHand, tmp_path: Path
) -> None:
    # Scratch hides the host's /tmp, but not where the command is to run.
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"seen\n")
    done = no_lab.inside(["cat", "file"], cwd=place)
    assert (done.code, done.out, done.err) == (0, b"seen\n", b"")
