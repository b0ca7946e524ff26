# SPDX-License-Identifier: MIT
"""QEMU as a managed peer: it works, it fails in every way, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from pyvmm.errors import HostLacksError
from pyvmm.qmp.peer import QemuError, QemuPeer, QmpRefusalError, open_qemu

QEMU = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none"]


def within(
    command: list[str], act: Callable[[QemuPeer], Awaitable[object]], patience: float = 30
) -> int:
    """Run `act` with a peer; its process number, after checking that it has gone."""
    pid = 0

    async def main() -> None:
        nonlocal pid
        async with open_qemu(command, patience=patience) as peer:
            pid = peer.child.pid
            await act(peer)

    try:
        trio.run(main)
    finally:
        if pid:
            assert not Path(f"/proc/{pid}").exists()
    return pid


async def nothing(_: QemuPeer) -> None:
    pass


@pytest.mark.qemu
def test_it_answers_and_goes() -> None:
    async def act(peer: QemuPeer) -> None:
        assert await peer.query_status() in {"running", "prelaunch"}
        with pytest.raises(QmpRefusalError, match="nonsense"):
            await peer.execute("nonsense")
        assert await peer.execute("query-name") == {}

    assert within(QEMU, act)


@pytest.mark.qemu
def test_one_that_is_killed_says_so() -> None:
    async def act(peer: QemuPeer) -> None:
        os.kill(peer.child.pid, signal.SIGKILL)
        await peer.child.wait()
        with pytest.raises(QemuError, match="killed by SIGKILL") as caught:
            await peer.query_status()
        assert caught.value.returncode == -signal.SIGKILL

    within(QEMU, act)


@pytest.mark.qemu
def test_one_that_is_stopped_is_silent() -> None:
    async def act(peer: QemuPeer) -> None:
        os.kill(peer.child.pid, signal.SIGSTOP)
        with pytest.raises(QemuError, match=r"no answer in 0\.5 s"):
            await peer.execute("query-status", patience=0.5)

    within(QEMU, act)


@pytest.mark.qemu
def test_what_it_told_and_took_is_known_when_it_has_ended() -> None:
    async def act(peer: QemuPeer) -> None:
        assert peer.events() == ()
        with suppress(QemuError):  # It may be gone before its answer is here.
            await peer.execute("quit")
        assert await peer.wait() == 0
        (event,) = peer.events()
        assert event.name == "SHUTDOWN"
        assert event.data["reason"] == "host-qmp-quit"
        usage = peer.child.usage
        assert usage is not None
        assert usage.ru_maxrss > 1024
        assert usage.ru_utime + usage.ru_stime > 0
        with pytest.raises(QemuError, match="exit code 0"):
            await peer.query_status()

    within(QEMU, act)


@pytest.mark.qemu
def test_a_bad_option_is_quoted() -> None:
    with pytest.raises(QemuError, match="no-such-device") as caught:
        within([*QEMU, "-device", "no-such-device"], nothing)
    assert caught.value.returncode == 1
    assert "-device no-such-device" in caught.value.command
    assert "\n" not in str(caught.value)


@pytest.mark.qemu
def test_an_error_of_the_owner_comes_out_as_it_is() -> None:
    async def act(_: QemuPeer) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        within(QEMU, act)


# QMP's descriptor is the one named in the last but two arguments.
FIND = "fd=$(echo \"$*\" | sed 's/.*fd=\\([0-9]*\\).*/\\1/'); "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo bye >&2; exit 3", "exit code 3, saying: bye"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("sleep 60", "did not greet us over QMP"),
        (FIND + 'eval "echo rubbish >&$fd"; sleep 60', "does not speak QMP"),
        (FIND + 'eval "echo \'{\\"QMP\\": 1}\' >&$fd"; sleep 60', "does not speak QMP"),
        (FIND + 'eval "exec $fd>&-"; sleep 60', "does not speak QMP"),
        ("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", "exit code 1"),
    ],
)
def test_what_is_no_qemu(script: str, message: str) -> None:
    with pytest.raises(QemuError, match=message) as caught:
        within(["bash", "-c", script, "fake"], nothing, patience=2)
    assert len(caught.value.last_lines) < 10_000


def test_one_that_is_not_installed() -> None:
    with pytest.raises(HostLacksError, match="not installed"):
        within(["no-such-qemu"], nothing)


@pytest.mark.qemu
@pytest.mark.slow
def test_it_dies_with_its_parent() -> None:
    program = (
        "import trio\n"
        "from pyvmm.qmp.peer import open_qemu\n"
        "async def main():\n"
        f"    async with open_qemu({QEMU!r}) as peer:\n"
        "        print(peer.child.pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        # Longer than trio keeps an idle worker thread: it must not be one that has forked.
        time.sleep(11)
        assert Path(f"/proc/{pid}").exists()
        owner.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
