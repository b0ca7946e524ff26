# SPDX-License-Identifier: MIT
"""The clients that everybody has, unmodified, at ``pyvmm run --qmp``; and QEMU beside it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ConnectError, ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.cli.command import HANG, Outcome, ending, finish, pyvmm, start, until
from tests.readable import is_listened_on

pytestmark = [pytest.mark.kvm, pytest.mark.slow]  # each starts processes

SHELL = Path(sys.executable).with_name("qmp-shell")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@contextmanager
def running(path: Path, guest: str = "hang", *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """``pyvmm run`` with a QMP socket that is there."""
    options = ("--console", "none", "-m", "16M", "--qmp", f"unix:{path}{''.join(more)}")
    with ending(start("run", guest, *options)) as process:
        until(partial(is_listened_on, path), "a socket")
        yield process


async def connected(client: QMPClient, path: Path) -> None:
    """Connect and negotiate. Raises `ConnectError` where the server has gone meanwhile."""
    try:
        await client.connect(str(path))
    except AssertionError as failure:
        # qemu.qmp's own: it takes the end of the stream for impossible while it negotiates.
        with suppress(EOFError):
            await client.disconnect()
        raise ConnectError("gone while negotiating", failure) from failure


def with_client(path: Path, act: Callable[[QMPClient], Awaitable[object]]) -> list[dict[str, Any]]:
    """Run `act` with qemu.qmp's client; the events that it heard."""

    async def main() -> list[dict[str, Any]]:
        client = QMPClient("test")
        client.logger.disabled = True
        async with asyncio.timeout(HANG):
            await connected(client, path)
            try:
                await act(client)
            finally:
                with suppress(EOFError):  # The server was first.
                    await client.disconnect()
        return [dict(event) for event in client.events.history]

    return asyncio.run(main())


async def drive(client: QMPClient) -> list[object]:
    """One driver for every monitor: what a user would do, and what it was answered."""
    found: list[object] = [await client.execute("query-status")]
    found.append(await client.execute("stop"))
    found.append(await client.execute("query-status"))
    found.append(await client.execute("stop"))
    found.append(await client.execute("cont"))
    found.extend([await client.execute("cont"), await client.execute("query-status")])
    cpus: Any = await client.execute("query-cpus-fast")
    found.append(await client.execute("query-memory-size-summary"))
    found.append(await client.execute("query-memory-devices"))
    found.extend([await client.execute("query-kvm"), await client.execute("query-version")])
    for name, arguments in (
        ("no-such-command", {}),
        ("stop", {"unexpected": 1}),
        ("human-monitor-command", {}),
        ("human-monitor-command", {"command-line": 5}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:f", "begin": "x"}),
        ("query-stats", {"target": "nothing"}),
    ):
        with pytest.raises(ExecuteError) as caught:
            await client.execute(name, arguments)
        found.append((caught.value.error.error.class_, caught.value.error.error.desc))
    found.append(await client.execute("system_powerdown"))
    found.append(await client.execute("system_reset"))
    for cpu in cpus:  # QEMU's machine "none" has no processor.
        assert set(cpu) == {"thread-id", "props", "qom-path", "cpu-index", "target"}
    return found


def shape(value: object) -> object:
    """What a value is made of."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_qemus_own_client(path: Path) -> None:
    answers: list[object] = []

    async def act(client: QMPClient) -> None:
        answers.extend(await drive(client))
        assert await client.execute("quit") == {}

    with running(path, "hang", ",wait=on") as process:
        events = with_client(path, act)
        outcome = finish(process)
    assert answers[2] == {"status": "paused", "singlestep": False, "running": False}
    named = [event["event"] for event in events]
    assert named == ["STOP", "RESUME", "POWERDOWN", "RESET", "SHUTDOWN"]
    assert (outcome.code, outcome.lines) == (0, ["pyvmm: ended by quit, over QMP"])
    assert not path.exists()


@pytest.mark.qemu
def test_the_same_driver_gets_the_same_from_qemu(path: Path, tmp_path: Path) -> None:
    """Shapes of all answers, errors by their words, and the events in their order."""
    answers: dict[str, list[object]] = {}
    events: dict[str, list[tuple[str, object]]] = {}

    def of(name: str, path: Path) -> None:
        async def act(client: QMPClient) -> None:
            answers[name] = await drive(client)

        heard = with_client(path, act)
        events[name] = [(event["event"], event.get("data")) for event in heard]

    with running(path):
        of("pyvmm", path)
    of_qemu = tmp_path / "qemu"
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp",
         f"unix:{of_qemu},server=on,wait=off", "-m", "16"],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    with ending(qemu):
        until(of_qemu.exists, "a socket")
        of("QEMU", of_qemu)
    errors = [one for one in answers["QEMU"] if isinstance(one, tuple)]
    assert [one for one in answers["pyvmm"] if isinstance(one, tuple)] == errors
    if not any(isinstance(one, dict) and "singlestep" in one for one in answers["QEMU"]):
        for one in answers["pyvmm"]:  # Newer QEMUs do not tell it any more.
            if isinstance(one, dict):
                one.pop("singlestep", None)
    assert [shape(one) for one in answers["pyvmm"]] == [shape(one) for one in answers["QEMU"]]
    assert events["pyvmm"] == events["QEMU"]


def test_qemus_older_client(path: Path) -> None:
    with running(path) as process:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # It would make one, and leave it open.
        client = QEMUMonitorProtocol(str(path))
        client.settimeout(HANG)
        client.connect()
        try:
            assert client.cmd_raw("quit")["return"] == {}
            event = client.pull_event(wait=HANG)
            assert event is not None
            assert event["event"] == "SHUTDOWN"
            assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}
        finally:
            with suppress(EOFError):
                client.close()
            asyncio.set_event_loop(None)
            loop.close()
        assert finish(process).err == "pyvmm: ended by quit, over QMP\n"


def test_qmp_shell(path: Path) -> None:
    with running(path) as process:
        said = subprocess.run(
            [SHELL, path],
            input="query-status\nstop\nhuman-monitor-command command-line=info\\ status\nquit\n",
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
        assert "Welcome to the QMP low-level shell!" in said.stdout
        assert "Connected to QEMU 7.2.0" in said.stdout
        assert '"status": "running"' in said.stdout
        assert finish(process).code == 0


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        ("exit", [("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]),
        ("triple", [("SHUTDOWN", {"guest": True, "reason": "guest-reset"})]),
        (
            "panic",
            [
                ("GUEST_PANICKED", {"action": "poweroff"}),
                ("SHUTDOWN", {"guest": True, "reason": "guest-panic"}),
            ],
        ),
    ],
)
def test_ends_are_told(guest: str, expected: list[tuple[str, object]], path: Path) -> None:
    async def act(client: QMPClient) -> None:
        while client.runstate.name == "RUNNING":
            await client.runstate_changed()

    for attempt in range(10):
        with running(path, guest, ",wait=on") as process:
            try:
                heard = with_client(path, act)
            except ConnectError:
                # The guest begins when somebody is there, and was over before the handshake was.
                assert attempt < 9
                continue
            finally:
                finish(process)
        break
    assert [(event["event"], event.get("data")) for event in heard] == expected


@pytest.mark.parametrize(
    ("number", "options", "code"),
    [(signal.SIGTERM, (), 130), (signal.SIGINT, (), 130), (None, ("--timeout", "0.2"), 124)],
)
def test_a_guest_that_is_held_can_be_ended(
    number: signal.Signals | None, options: tuple[str, ...], code: int, path: Path
) -> None:
    more = ("--console", "none", "--qmp", f"unix:{path},wait=on")
    with ending(start("run", "exit", *more, *options)) as process:
        until(partial(is_listened_on, path), "a socket")
        if number is not None:
            process.send_signal(number)
        outcome = finish(process)
    assert outcome.code == code
    assert not path.exists()


def test_a_signal_is_told(path: Path) -> None:
    with running(path) as process:

        async def act(client: QMPClient) -> None:
            process.send_signal(signal.SIGTERM)
            while client.runstate.name == "RUNNING":
                await client.runstate_changed()

        [event] = with_client(path, act)
        finish(process)
    assert event["data"] == {"guest": False, "reason": "host-signal"}


# -- the command line --


@pytest.mark.parametrize(
    "option",
    ["", "tcp:localhost:4444", "unix:", "unix:/x,wait=maybe", "unix:/x,server=off", "unix:/x,"],
)
def test_a_bad_option(option: str) -> None:
    outcome = pyvmm("run", "exit", "--qmp", option)
    assert outcome.code == 64
    assert "--qmp" in outcome.err


def test_an_existing_file_is_not_overwritten(path: Path) -> None:
    path.write_text("kept")
    outcome = pyvmm("run", "exit", "--qmp", f"unix:{path}")
    assert (outcome.code, len(outcome.lines)) == (64, 1)
    assert f"listen for QMP clients on {path}: a file of that name exists" in outcome.err
    assert path.read_text() == "kept"


def test_a_comma_in_the_path(tmp_path: Path) -> None:
    option = f"unix:{tmp_path}/a,,b,server=on"
    with ending(start("run", "hang", "--console", "none", "--qmp", option)):
        until((tmp_path / "a,b").exists, "a socket")


def test_not_from_the_lab(path: Path) -> None:
    outcome = pyvmm("run", "exit", "--host", "lab", "--qmp", f"unix:{path}")
    assert (outcome.code, len(outcome.lines)) == (64, 1)
    assert "cannot be reached from out here" in outcome.err


def test_a_run_without_it_imports_nothing_of_it() -> None:
    program = (
        "import sys; from pyvmm.cli.main import main\n"
        "code = main(['run', 'exit'])\n"
        "found = [name for name in sys.modules if name.startswith(('pyvmm.qmp', 'qemu'))]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert Outcome(done.returncode, b"", done.stderr).lines == []
    assert done.returncode == 0
