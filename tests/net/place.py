# SPDX-License-Identifier: MIT
"""A place of its own for topologies: a process in network and mount namespaces of its own.

As a program it takes orders, a line of JSON each, and carries each out in a child that it forks:
the libraries are loaded once, and a child may be killed at any line of the code.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tests.net.capabilities import drop_capabilities

OURS = str(Path(__file__).parents[2] / "pyvmm" / "net")
EFFECTS = {
    "name_namespace", "unname_namespace", "_share_names", "_make_bridge", "_make_tap", "fill",
    "make_namespace", "_lay_cables_from", "connect", "write", "forward", "masquerade",
    "unmasquerade", "_add", "remove", "_remove_devices", "_remove_namespace", "put_up", "make",
}  # fmt: skip
"""Names of functions that change something, or call what does."""
NOTHING = {"devices": ["lo"], "names": [], "mounts": [], "children": []}
"""What `Place.left` says where nothing is left."""


@dataclass(frozen=True)
class Done:
    """A command that has ended. `lines` of ours were executed; `was_killed` at one of them.

    `steps` are the first executions of lines in functions that change something, by the number of
    lines that had been executed then.
    """

    status: int
    out: str
    err: str
    lines: int
    was_killed: bool
    steps: list[int]


class Place:
    """The process and its orders. A context manager."""

    def __enter__(self) -> Place:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.net.place"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _order(self, **order: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the place has gone"
        return dict(json.loads(answer))

    def pyvmm(
        self,
        *words: object,
        kill_at: int | None = None,
        interrupt_at: int | None = None,
        is_bare: bool = False,
    ) -> Done:
        """Do a command; it gets a signal before that line of ours, if it gets there.

        One that `is_bare` has no capability.
        """
        order = {
            "words": [*map(str, words)],
            "signals": [(kill_at, signal.SIGKILL), (interrupt_at, signal.SIGINT)],
            "is_bare": is_bare,
        }
        return Done(**self._order(commands=[order])["done"][0])

    def at_once(self, *commands: Sequence[object]) -> list[Done]:
        """Do several commands at once."""
        orders = [
            {"words": [*map(str, words)], "signals": [], "is_bare": False} for words in commands
        ]
        return [Done(**each) for each in self._order(commands=orders)["done"]]

    def left(self) -> dict[str, object]:
        """All that is there: devices, names of namespaces, mounts on them, children."""
        return self._order(left=True)

    def add(self, kind: str, name: str) -> None:
        """Have somebody else make a bridge, a tap or a namespace."""
        assert self._order(add=kind, name=name) == {}

    def remove(self, kind: str, name: str) -> None:
        """Have somebody else remove a device or a namespace."""
        assert self._order(remove=kind, name=name) == {}

    def touch(self, name: str, text: str = "") -> None:
        """Write a file among the names of namespaces."""
        assert self._order(touch=name, text=text) == {}

    def forward(self, on: bool) -> None:
        """Have the place's namespace forward packets of IPv4."""
        assert self._order(forward=on) == {}

    def reach(self, source: str | None, target: str | None, address: str) -> str:
        """Connect from one namespace to an address in another; by which address that knows us."""
        return str(self._order(reach=address, source=source, target=target)["seen"])

    def open_tap(self, name: str, netns: str | None = None) -> None:
        """Have the place hold a tap open."""
        assert self._order(open_tap=name, netns=netns) == {}

    def removed_taps(self) -> int:
        """Number of taps that it holds open and that are there no more."""
        return int(self._order(removed_taps=True)["count"])

    def close_taps(self) -> None:
        """Close those that it holds."""
        assert self._order(close_taps=True) == {}


@contextmanager
def place() -> Iterator[Place]:
    with Place() as made:
        yield made
        assert made.left() == NOTHING


# -- the process --


def _serve() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x4002_0000) == 0, os.strerror(ctypes.get_errno())
    private = 1 << 18 | 1 << 14
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None) == 0
    assert libc.mount(b"none", b"/run", b"tmpfs", ctypes.c_ulong(0), None) == 0
    import pyroute2  # noqa: F401 - loaded once

    import pyvmm.cli.net
    import pyvmm.net.topologies
    import pyvmm.net.topology_drawing
    import pyvmm.net.topology_file  # noqa: F401

    taps: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        if "commands" in order:
            children = [_begun(**each) for each in order["commands"]]
            answer: dict[str, object] = {"done": [_ended(*each) for each in children]}
        elif "left" in order:
            answer = _left()
        elif "add" in order:
            _add(order["add"], order["name"])
            answer = {}
        elif "remove" in order:
            _remove(order["remove"], order["name"])
            answer = {}
        elif "touch" in order:
            Path("/run/netns").mkdir(exist_ok=True)
            Path("/run/netns", order["touch"]).write_text(order["text"], encoding="ascii")
            answer = {}
        elif "forward" in order:
            setting = Path("/proc/sys/net/ipv4/ip_forward")
            setting.write_text(f"{order['forward']:d}", encoding="ascii")
            answer = {}
        elif "reach" in order:
            answer = {"seen": _reach(**order)}
        else:
            answer = _taps(order, taps)
        print(json.dumps(answer), flush=True)


def _add(kind: str, name: str) -> None:
    from pyroute2 import IPRoute

    from pyvmm.net.marks import Mark
    from pyvmm.net.named_namespaces import name_namespace
    from pyvmm.net.namespaces import new_namespace
    from pyvmm.net.taps import keep_tap, make_tap

    if kind == "namespace":
        fd = new_namespace()
        name_namespace(fd, name, Mark("somebody", ""))
        os.close(fd)
    elif kind == "tap":
        made = make_tap(name)
        assert made is not None
        keep_tap(made.fds[0])
        os.close(made.fds[0])
    else:
        with IPRoute() as links:
            links.link("add", ifname=name, kind=kind)


def _remove(kind: str, name: str) -> None:
    from pyroute2 import IPRoute

    if kind == "namespace":
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.umount2(f"/run/netns/{name}".encode(), 2) == 0
        Path("/run/netns", name).unlink()
    elif kind == "name":
        Path("/run/netns", name).unlink()
    else:
        with IPRoute() as links:
            links.link("del", ifname=name)


def _taps(order: dict[str, str], taps: list[int]) -> dict[str, object]:
    from pyvmm.net.namespaces import within
    from pyvmm.net.taps import attach_tap

    if "open_tap" in order:
        opened = within(order["netns"], lambda: attach_tap(order["open_tap"]))
        assert opened.hold is not None
        taps += (*opened.fds, opened.hold)
    elif "removed_taps" in order:
        return {"count": sum(map(_is_removed, taps))}
    else:
        while taps:
            os.close(taps.pop())
    return {}


def _is_removed(fd: int) -> bool:
    from pyvmm.net.taps import ask_tap

    try:
        ask_tap(fd)
    except OSError as error:
        return error.errno == errno.EBADFD
    return False


def _reach(reach: str, source: str | None, target: str | None) -> str:
    from pyvmm.net.namespaces import within

    with within(target, lambda: socket.create_server((reach, 0))) as server:
        port = server.getsockname()[1]
        with within(source, lambda: socket.create_connection((reach, port))):
            with server.accept()[0] as accepted:
                return str(accepted.getpeername()[0])


def _left() -> dict[str, object]:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="ascii").splitlines()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    names = Path("/run/netns")
    return {
        "devices": [name for _, name in socket.if_nameindex()],
        "names": sorted(one.name for one in names.iterdir()) if names.exists() else [],
        "mounts": [each.split()[4] for each in mounts if each.split()[4].startswith("/run/netns/")],
        "children": children.split(),
    }


def _begun(
    words: Sequence[str], signals: Sequence[tuple[int, int]], *, is_bare: bool
) -> tuple[int, int]:
    said, say = os.pipe()
    child = os.fork()
    if not child:
        if is_bare:
            drop_capabilities()
        _child(words, dict(signals), say)
    os.close(say)
    return child, said


def _ended(child: int, said: int) -> dict[str, object]:
    with os.fdopen(said, encoding="utf-8") as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    told = json.loads(text) if text else {"out": "", "err": "", "lines": 0, "steps": []}
    return {
        "status": os.waitstatus_to_exitcode(status),
        "was_killed": os.waitstatus_to_exitcode(status) == -signal.SIGKILL,
        **told,
    }


def _child(words: Sequence[str], signals: Mapping[int, int], say: int) -> None:
    from pyvmm.cli.ending_signals import EndingSignals
    from pyvmm.cli.main import main

    # Whoever started us may ignore it, as a shell does for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ending = EndingSignals()
    ending.exit_at_once()

    executed = 0
    steps: dict[tuple[str, int], int] = {}
    lock = threading.Lock()

    def trace(frame: FrameType, _event: str, _: object) -> Any:
        nonlocal executed
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        with lock:
            executed += 1
            if frame.f_code.co_name in EFFECTS:
                steps.setdefault((frame.f_code.co_filename, frame.f_lineno), executed)
            if executed in signals:
                os.kill(os.getpid(), signals[executed])
        return trace

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        threading.settrace(trace)
        sys.settrace(trace)
        status = main([*words], ending)
        sys.settrace(None)
    told = {"out": out.getvalue(), "err": err.getvalue(), "lines": executed}
    with os.fdopen(say, "w", encoding="utf-8") as file:
        file.write(json.dumps({**told, "steps": list(steps.values())}))
    os._exit(status)


if __name__ == "__main__":
    _serve()
