# SPDX-License-Identifier: MIT
"""The QMP server in this process: clients of every kind, and the guest that goes on."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from pyvmm import bundled_guests
from pyvmm.errors import HostLacksError
from pyvmm.machine import accepting
from pyvmm.machine.config import HostChoice, ImplicitPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.console.attach import discard
from pyvmm.machine.running import open_machine
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import MIB
from pyvmm.qmp import client as client_module
from pyvmm.qmp import server
from pyvmm.qmp.command import Arguments, Command, CommandError, ErrorClass
from pyvmm.qmp.command_table import commands
from pyvmm.qmp.served import Served
from pyvmm.qmp.server import MOST_CLIENTS, open_listener, serving
from pyvmm.qmp.session import Session
from tests.machine.guests import SPIN, bundled
from tests.machine.inside import is_paused
from tests.qmp.guests import HANG, HOSTS, drive
from tests.qmp.talk import Talk, names, served, talking


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_from_greeting_to_the_end(host: HostChoice, path: Path) -> None:
    async def main() -> None:
        async with served(path, host=host) as machine:
            status = os.lstat(path)
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
            async with talking(path) as talk:
                assert (await talk.ask("query-status"))["return"]["status"] == "running"
                assert await talk.ask("stop") == {"return": {}}
                assert is_paused(machine)
                assert (await talk.ask("query-status"))["return"]["status"] == "paused"
                assert await talk.ask("cont") == {"return": {}}
                assert names(talk.events) == ["STOP", "RESUME"]
                assert await talk.ask("quit") == {"return": {}}
                assert talk.events[2]["data"] == {"guest": False, "reason": "host-qmp-quit"}
                await machine.control.wait()

    drive(main)
    assert not path.exists()


def test_everybody_hears_events_and_nobody_before_negotiating(path: Path) -> None:
    async def main() -> None:
        async with served(path) as machine:
            async with talking(path) as first, talking(path) as second:
                silent = await Talk.connect(path)
                await silent.answer()
                assert await first.ask("stop") == {"return": {}}
                assert (await second.ask("query-status"))["return"]["status"] == "paused"
                assert names(second.events) == ["STOP"]
                machine.control.interrupt("enough")
                await machine.control.wait()
                await silent.ask("qmp_capabilities")
                assert silent.events == []
                silent.close()

    drive(main)


def test_the_end_is_told_and_the_connection_closed(path: Path) -> None:
    async def main() -> None:
        heard: list[str] = []
        async with trio.open_nursery() as nursery:
            async with served(path) as machine:
                talk = await (await Talk.connect(path)).ready()

                async def listen() -> None:
                    heard.extend(names(await talk.rest()))
                    talk.close()

                nursery.start_soon(listen)
                machine.control.interrupt("enough")
                await machine.control.wait()
        assert heard == ["SHUTDOWN"]

    drive(main)


def test_a_run_that_fails_is_a_shutdown_by_the_host(path: Path) -> None:
    async def main() -> None:
        with pytest.raises(HostLacksError):
            async with served(path):
                talk = await (await Talk.connect(path)).ready()
                raise HostLacksError("run", "it is worn out")
        [told] = await talk.rest()
        assert (told["event"], told["data"]["reason"]) == ("SHUTDOWN", "host-error")
        talk.close()

    drive(main)


@pytest.mark.parametrize("host", HOSTS)
def test_the_guest_waits_for_the_first_client_that_negotiates(host: HostChoice, path: Path) -> None:
    async def main() -> None:
        async with served(path, paused=True, host=host) as machine:
            talk = await Talk.connect(path)
            await talk.answer()
            talk.close()  # It has not negotiated.
            second = await Talk.connect(path)
            await second.answer()
            assert "error" in await second.ask("query-status")
            assert machine.control.state is MachineState.NEW
            assert await second.ask("qmp_capabilities") == {"return": {}}
            assert (await second.ask("query-status"))["return"]["status"] == "running"
            assert machine.control.state.value == "running"
            assert second.events == []
            second.close()

    drive(main)


def test_a_held_guest_can_be_interrupted(path: Path) -> None:
    async def main() -> None:
        async with served(path, paused=True) as machine:
            machine.control.interrupt("enough")
            assert (await machine.control.wait()).ending.detail == "enough"

    drive(main)


def test_a_held_guest_runs_out_of_time(path: Path) -> None:
    async def main() -> None:
        config = MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL, timeout=0.05)
        with trio.fail_after(HANG), open_listener(path) as listener:
            async with (
                open_machine(config, paused=True) as machine,
                serving(machine, listener, holds_guest=True),
            ):
                assert (await machine.control.wait()).ending.exit_code == 124

    drive(main)


def test_what_was_asked_before_hanging_up_is_answered(path: Path) -> None:
    async def main() -> None:
        async with served(path):
            talk = await Talk.connect(path)
            await talk.send(b'{"execute":"qmp_capabilities"}{"execute":"query-version"}')
            await talk.send(b'{"execute":"query-commands"}')
            await talk.connection.send_eof()
            assert len(await talk.rest()) == 4
            talk.close()

    drive(main)


def test_answers_come_in_the_order_of_the_commands(path: Path) -> None:
    async def main() -> None:
        async with served(path), talking(path) as talk:
            for number in range(300):
                await talk.send(json.dumps({"execute": "query-kvm", "id": number}).encode())
            for number in range(300):
                assert (await talk.answer())["id"] == number

    drive(main)


def test_a_refused_access_is_told_with_its_page(path: Path) -> None:
    async def main() -> None:
        private = PrivateConfig(bundled_guests.firmware(), implicit=ImplicitPolicy.REFUSE)
        config = MachineConfig(
            bundled("touch"), memory=16 * MIB, host=HostChoice.MODEL, private=private
        )
        with trio.fail_after(HANG), open_listener(path) as listener:
            async with (
                open_machine(config, discard, paused=True) as machine,
                serving(machine, listener, holds_guest=True),
            ):
                talk = await (await Talk.connect(path)).ready()
                await machine.control.wait()
        refused, shutdown = await talk.rest()
        talk.close()
        assert refused["event"] == "X_PYVMM_MEMORY_REFUSED"
        assert refused["data"]["cpu-index"] == 0
        touched = refused["data"]["gpa"]
        assert refused["data"]["access"] == "private"
        around = refused["data"]["page-map"]
        assert any(run["start"] <= touched < run["end"] for run in around)
        assert shutdown["data"] == {"guest": False, "reason": "host-error"}

    drive(main)


# -- clients that do not read --


def test_who_does_not_read_events_is_dropped_and_the_guest_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LIMIT", 1 << 14)

    async def main() -> None:
        async with served(path) as machine, talking(path) as reading:
            stalled = await (await Talk.connect(path)).ready()
            stalled.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            told = 0
            while not await _is_closed(stalled):
                told += 1
                assert told < 100_000, "it is never dropped"
                machine.control.powerdown()
                if told % 50 == 0:
                    await reading.ask("query-status")
            assert (await reading.ask("query-status"))["return"]["running"] is True
            assert len(reading.events) == told
            stalled.close()

    drive(main)


async def _is_closed(talk: Talk) -> bool:
    await trio.lowlevel.checkpoint()
    return bool(_poll_hangup(talk.connection.socket.fileno()))


def _poll_hangup(fd: int) -> int:
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return sum(found for _, found in poll.poll(0))


@pytest.mark.slow
def test_who_does_not_read_answers_is_asked_nothing_more(path: Path) -> None:
    """Bounded on both sides: the server takes no more than it has answered."""

    async def main() -> None:
        async with served(path), talking(path) as talk, talking(path) as other:
            command = b'{"execute":"query-commands"}\n' * 1000
            sent = 0
            with trio.move_on_after(0.5):
                while True:
                    sent += await talk.connection.socket.send(command)
            assert sent < 4 * MIB
            assert (await other.ask("query-status"))["return"]["running"] is True
            assert "return" in await talk.answer()  # Whoever comes back is served on.

    drive(main)


@pytest.mark.slow
def test_a_client_that_does_not_read_does_not_keep_the_end_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.05)

    async def main() -> None:
        async with served(path) as machine:
            talk = await (await Talk.connect(path)).ready()
            with trio.move_on_after(0.3):
                await talk.send(b'{"execute":"query-commands"}\n' * 100_000)
            machine.control.interrupt("enough")
            await machine.control.wait()
        talk.close()

    drive(main)


# -- clients that go --


def _slow_command(
    monkeypatch: pytest.MonkeyPatch, started: trio.Event, go_on: trio.Event, done: trio.Event
) -> None:
    async def run(_served: Served, _arguments: Arguments) -> object:
        started.set()
        await go_on.wait()
        done.set()
        return {}

    table = {**commands(), "slow": Command("slow", (), run)}
    monkeypatch.setattr("pyvmm.qmp.server.commands", lambda: table)


def test_a_client_that_vanishes_in_the_middle_of_a_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        started, go_on, done = trio.Event(), trio.Event(), trio.Event()
        _slow_command(monkeypatch, started, go_on, done)
        async with served(path):
            talk = await (await Talk.connect(path)).ready()
            await talk.send(b'{"execute":"slow"}')
            await started.wait()
            talk.close()
            async with talking(path) as other:
                assert (await other.ask("query-status"))["return"]["running"] is True
                go_on.set()
                await done.wait()
                assert await other.ask("stop") == {"return": {}}

    drive(main)


def test_commands_of_two_clients_take_turns_but_questions_do_not_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        started, go_on, done = trio.Event(), trio.Event(), trio.Event()
        _slow_command(monkeypatch, started, go_on, done)
        async with served(path) as machine, talking(path) as first, talking(path) as second:
            await first.send(b'{"execute":"slow"}')
            await started.wait()
            assert "return" in await second.ask("query-status")
            await second.send(b'{"execute":"stop"}')
            await trio.testing.wait_all_tasks_blocked()
            assert not is_paused(machine)
            go_on.set()
            await first.answer()
            await second.answer()
            assert is_paused(machine)

    drive(main)


def test_the_end_of_the_guest_does_not_wait_for_a_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.05)

    async def main() -> None:
        started, go_on, done = trio.Event(), trio.Event(), trio.Event()
        _slow_command(monkeypatch, started, go_on, done)
        async with served(path) as machine:
            talk = await (await Talk.connect(path)).ready()
            await talk.send(b'{"execute":"slow"}')
            await started.wait()
            machine.control.interrupt("enough")
            await machine.control.wait()
        assert names(await talk.rest()) == ["SHUTDOWN"]
        assert not done.is_set()
        talk.close()

    drive(main)


@pytest.mark.slow
def test_a_thousand_connects(path: Path) -> None:
    async def main() -> None:
        async with served(path):
            before = len(os.listdir("/proc/self/fd"))
            for number in range(1000):
                talk = await Talk.connect(path)
                if number % 3:
                    assert "QMP" in await talk.answer()
                talk.close()
            async with talking(path) as talk:
                assert (await talk.ask("query-status"))["return"]["running"] is True
            await trio.testing.wait_all_tasks_blocked()
            assert len(os.listdir("/proc/self/fd")) == before

    drive(main)


def test_more_clients_than_places_wait(path: Path) -> None:
    async def main() -> None:
        async with served(path):
            talks = [await (await Talk.connect(path)).ready() for _ in range(MOST_CLIENTS)]
            late = await Talk.connect(path)
            with trio.move_on_after(0.05) as limit:
                await late.line()
            assert limit.cancelled_caught
            talks.pop().close()
            await late.ready()
            for talk in (late, *talks):
                talk.close()

    drive(main)


def test_no_descriptors_left_for_a_client(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_OUT_OF_DESCRIPTORS", 0.001)
    failures = 3

    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal failures
            if failures:
                failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def main() -> None:
        listener = open_listener(path)
        listener.socket = Exhausted(fileno=listener.socket.detach())
        with trio.fail_after(HANG), listener:
            config = MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL)
            async with open_machine(config) as machine, serving(machine, listener):
                async with talking(path):
                    assert failures == 0

    drive(main)


# -- commands that fail --


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            CommandError("no such thing", ErrorClass.DEVICE_NOT_FOUND),
            {"class": "DeviceNotFound", "desc": "no such thing"},
        ),
        (
            HostLacksError("do it", "it is Monday", "wait"),
            {"class": "GenericError", "desc": "cannot do it: it is Monday; wait"},
        ),
        (
            ZeroDivisionError("oops"),
            {
                "class": "GenericError",
                "desc": "a defect of pyvmm in broken: ZeroDivisionError('oops')",
            },
        ),
        (
            None,
            {
                "class": "GenericError",
                "desc": "a defect of pyvmm in broken: "
                "TypeError('Object of type object is not JSON serializable')",
            },
        ),
    ],
)
def test_a_command_that_fails_is_answered(
    failure: Exception | None,
    expected: dict[str, str],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(_served: Served, _arguments: Arguments) -> object:
        if failure is not None:
            raise failure
        return object()

    table = {**commands(), "broken": Command("broken", (), run)}
    monkeypatch.setattr("pyvmm.qmp.server.commands", lambda: table)

    async def main() -> None:
        async with served(path), talking(path) as talk:
            assert await talk.ask("broken") == {"error": expected}
            assert (await talk.ask("query-status"))["return"]["running"] is True

    drive(main)


def test_a_defect_in_a_session_ends_that_session_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with served(path) as machine, talking(path) as talk:
            with monkeypatch.context() as patch:
                patch.setattr(Session, "next", lambda _: 1 // 0)
                await talk.send(b"{}")
                [answer] = await talk.rest()
            assert answer["error"]["desc"].startswith("a defect of pyvmm: ZeroDivisionError")
            async with talking(path) as other:
                assert (await other.ask("query-status"))["return"]["running"] is True
            assert machine.control.ending is None

    drive(main)
