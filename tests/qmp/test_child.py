# SPDX-License-Identifier: MIT
"""A child process: what it is given, what is kept of it, and that it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.qmp.child import Child


def with_child(
    command: Sequence[str],
    act: Callable[[Child], Awaitable[object]],
    pass_fds: Sequence[int] = (),
    stdin: int | None = None,
) -> Child:
    """Run `act` with a child, which is gone and has given everything back afterwards."""

    async def main() -> Child:
        before = set(os.listdir("/proc/self/fd"))
        child = Child.start(command, pass_fds, stdin)
        try:
            await act(child)
        finally:
            await child.end()
        assert set(os.listdir("/proc/self/fd")) == before
        return child

    child = trio.run(main)
    assert not Path(f"/proc/{child.pid}").exists()
    return child


def output_of(script: str, pass_fds: Sequence[int] = (), stdin: int | None = None) -> bytes:
    """What a shell script says, on both streams."""
    said = bytearray()

    async def act(child: Child) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.pump, "stdout", said.extend)
            nursery.start_soon(child.pump, "stderr", said.extend)

    with_child(["sh", "-c", script], act, pass_fds, stdin)
    return bytes(said)


async def ended(child: Child) -> None:
    await child.wait()


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 0", 0, "it ended with exit code 0"),
        ("exit 133", 133, "it ended with exit code 133"),
        ("kill -SEGV $$", -signal.SIGSEGV, "it was killed by SIGSEGV"),
        ("kill -35 $$", -35, "it was killed by signal 35"),
    ],
)
def test_how_it_ended(script: str, code: int, words: str) -> None:
    child = with_child(["sh", "-c", script], ended)
    assert child.returncode == code
    assert child.ending() == words
    assert child.usage is not None


def test_what_it_took_is_its_own() -> None:
    busy = with_child([sys.executable, "-ISc", "for _ in range(3_000_000): pass"], ended)
    idle = with_child(["true"], ended)
    assert busy.usage is not None
    assert idle.usage is not None
    assert busy.usage.ru_utime > idle.usage.ru_utime


def test_it_still_runs_until_it_does_not() -> None:
    async def act(child: Child) -> None:
        assert child.returncode is None
        assert child.usage is None
        assert child.ending() == "it still runs"

    child = with_child(["sleep", "1000"], act)
    # Politely: nothing had to be killed.
    assert child.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_any_number_of_tasks_wait_for_it() -> None:
    codes: list[int] = []

    async def act(child: Child) -> None:
        async def wait() -> None:
            codes.append(await child.wait())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            with trio.move_on_after(0.01):
                await child.wait()
            child.kill()

    with_child(["sleep", "600"], act)
    assert codes == [-signal.SIGKILL] * 3


def test_one_that_does_not_listen_is_killed() -> None:
    async def act(child: Child) -> None:
        async def until_it_is_deaf() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.pump, "stdout", lambda _: nursery.cancel_scope.cancel())

        with trio.fail_after(240):
            await until_it_is_deaf()

    child = with_child(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"], act)
    assert child.returncode == -signal.SIGKILL


def test_its_standard_input_is_empty_or_what_is_given(tmp_path: Path) -> None:
    assert output_of("cat") == b""
    given = tmp_path / "given"
    given.write_bytes(bytes(range(256)))
    with given.open("rb") as stream:
        assert output_of("cat", stdin=stream.fileno()) == bytes(range(256))


def test_it_has_the_descriptors_that_are_passed_and_no_others(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as passed, (tmp_path / "other").open("wb") as other:
        os.set_inheritable(other.fileno(), True)
        found = set(map(int, output_of("ls /proc/$$/fd", (passed.fileno(),)).split()))
        # A shell may keep one of its own from 10 on.
        assert {0, 1, 2, passed.fileno()} <= found
        assert other.fileno() not in found


def test_it_writes_no_core_file() -> None:
    assert output_of("ulimit -Sc; ulimit -Hc").split() == [b"0", b"0"]


def test_what_both_streams_say_is_all_there() -> None:
    said = output_of("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3")
    assert said == bytes(600_000)


def test_one_that_is_cancelled_ends_all_the_same() -> None:
    async def main() -> Child:
        child = Child.start(["sleep", "1000"])
        try:
            with trio.move_on_after(0.05):
                await child.wait()
            with trio.CancelScope() as scope:
                scope.cancel()
                await child.end()
            # What has ended can be ended again.
            await child.end()
        finally:
            child.kill()
        return child

    assert trio.run(main).returncode == -signal.SIGTERM


def test_programs_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(HostLacksError, match="not installed"):
        Child.start([str(tmp_path / "nothing")])
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(SystemCallError, match="Permission denied"):
        Child.start([str(plain)])
    with pytest.raises(SystemCallError):
        Child.start([str(tmp_path)])
