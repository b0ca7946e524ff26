# SPDX-License-Identifier: MIT
"""The board: guards, resets, saved state, posted writes and backends of whatever devices it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import trio

from pyvmm.devices import ports
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.placement import PlacedDevice, Platform, Space, Window
from pyvmm.devices.posting import PortPosting
from pyvmm.devices.protocols import Guard
from pyvmm.devices.saved_values import NoState
from pyvmm.devices.stateless import Stateless
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.hosts.model.posted import ModelPosts
from pyvmm.machine.backends import ClockTask
from pyvmm.machine.blocking import run
from pyvmm.machine.board import Board
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.pc_platform import pc_platform
from pyvmm.machine.running import open_machine
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import MIB
from tests.machine.inside import assembly_of

LONG = 60.0
"""Seconds after which a test gives up; none waits for so long unless it fails."""
HANG = 240.0
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


@dataclass(frozen=True, slots=True)
class SavedCounter:
    count: int


class Counter:
    """Counts its reads; a write calls `on_write`, inside of the access."""

    def __init__(self, on_write: Callable[[int], None] = lambda _: None) -> None:
        self.count = 0
        self.resets = 0
        self.on_write = on_write

    def read(self, offset: int, size: int) -> int:
        del offset, size
        self.count += 1
        return self.count & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size
        self.on_write(value)

    def reset(self) -> None:
        self.count = 0
        self.resets += 1

    def save(self) -> SavedCounter:
        return SavedCounter(self.count)

    def restore(self, value: SavedCounter) -> None:
        self.count = value.count


def placed(name: str, device: Counter, *starts: int, serialised: bool = True) -> PlacedDevice:
    windows = [
        Window(Space.PORT, start, 1, device, serialised=serialised) for start in starts if start
    ]
    return PlacedDevice(name, device, tuple(windows))


def board_of(*devices: PlacedDevice) -> Board:
    return Board(Platform(devices))


class Slow:
    """A device's write that stays inside until it is let go; how many are inside, at the most."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, _value: int) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.let_go.wait(LONG)
        with self._lock:
            self.inside -= 1


def write_in_threads(
    board: Board, ports: Sequence[int], data: bytes = b"\1"
) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=board.port_out, args=(port, 1, 1, data), daemon=True)
        for port in ports
    ]
    for thread in threads:
        thread.start()
    return threads


def finish(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_device_that_takes_its_time_keeps_nobody_from_the_others() -> None:
    slow = Slow()
    board = board_of(placed("slow", Counter(slow), 0x10), placed("quick", Counter(), 0x20))
    threads = write_in_threads(board, [0x10])
    assert slow.entered.acquire(timeout=LONG)
    # Here and now, in this thread: port, another port that nobody has, and MMIO.
    assert board.port_in(0x20, 1, 1) == b"\1"
    assert board.port_in(0x30, 2, 1) == b"\xff\xff"
    assert board.mmio_read(0x1000, 4) == b"\xff" * 4
    slow.let_go.set()
    finish(threads)


@pytest.mark.parametrize("serialised", [True, False])
def test_a_device_is_entered_once_at_a_time_unless_its_window_says_otherwise(
    serialised: bool,
) -> None:
    slow = Slow()
    board = board_of(placed("slow", Counter(slow), 0x10, 0x18, serialised=serialised))
    threads = write_in_threads(board, [0x10, 0x18, 0x10])
    assert slow.entered.acquire(timeout=LONG)
    if not serialised:
        assert slow.entered.acquire(timeout=LONG)
        assert slow.entered.acquire(timeout=LONG)
    slow.let_go.set()
    finish(threads)
    assert slow.most == (1 if serialised else 3)


def test_every_device_is_reset_in_place_whichever_bus_it_is_on() -> None:
    on_ports, on_both, on_none = Counter(), Counter(), Counter()
    mmio = Window(Space.MMIO, 0x1000, 8, on_both, 8)
    board = board_of(
        placed("ports", on_ports, 0x10),
        PlacedDevice("both", on_both, (Window(Space.PORT, 0x20, 1, on_both), mmio)),
        PlacedDevice("no windows", on_none, ()),
    )
    ranges = board.ports.ranges, board.mmio.ranges
    assert board.port_in(0x10, 1, 1) == b"\1"
    assert board.mmio_read(0x1000, 8) == b"\1" + bytes(7)
    assert board.port_in(0x20, 1, 1) == b"\2"
    board.reset()
    assert [device.resets for device in (on_ports, on_both, on_none)] == [1, 1, 1]
    assert (board.ports.ranges, board.mmio.ranges) == ranges
    assert board.mmio_read(0x1000, 1) == board.port_in(0x10, 1, 1) == b"\1"


def test_devices_are_saved_and_restored_by_name() -> None:
    one, other = Counter(), Counter()
    board = board_of(placed("one", one, 0x10), placed("other", other, 0x20))
    for _ in range(3):
        board.port_in(0x20, 1, 1)
    saved = board.save_devices()
    assert saved == (("one", SavedCounter(0)), ("other", SavedCounter(3)))
    board.reset()
    board.restore_devices(reversed(saved))
    assert (one.count, other.count) == (0, 3)
    assert board.port_in(0x20, 1, 1) == b"\4"


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ([("one", SavedCounter(9))], "the machine has other, and nothing was saved of it"),
        (
            [("one", SavedCounter(9)), ("other", SavedCounter(9)), ("third", SavedCounter(9))],
            "third was saved, and the machine has none",
        ),
        (
            [("one", SavedCounter(9)), ("other", NoState())],
            "other has a SavedCounter to be restored from, and what was saved is a NoState",
        ),
        ([("one", SavedCounter(9)), ("other", 9)], "what was saved is a int"),
    ],
)
def test_another_machine_s_state_is_refused_before_anything_changes(
    saved: list[tuple[str, object]], says: str
) -> None:
    one, other = Counter(), Counter()
    board = board_of(placed("one", one, 0x10), placed("other", other, 0x20))
    with pytest.raises(UsageError) as refused:
        board.restore_devices(saved)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (one.count, other.count) == (0, 0)


def test_devices_are_as_they_were_when_a_later_one_refuses_its_value() -> None:
    class Choosy(Counter):
        def restore(self, value: SavedCounter) -> None:
            self.count = -1
            if value.count > 5:
                raise UsageError("restore a counter", "it counts to 5")
            super().restore(value)

    one, other = Counter(), Choosy()
    board = board_of(placed("one", one, 0x10), placed("other", other, 0x20))
    one.count, other.count = 1, 2
    with pytest.raises(UsageError, match="it counts to 5"):
        board.restore_devices([("one", SavedCounter(9)), ("other", SavedCounter(9))])
    assert (one.count, other.count) == (1, 2)


class Posting(DebugConsole):
    """A debug console with a switch at its second port: off, nothing is posted."""

    on = True

    @property
    def posting(self) -> tuple[PortPosting, ...]:
        return super().posting if self.on else ()

    def write(self, offset: int, size: int, value: int) -> None:
        if offset:
            self.on = bool(value)
        else:
            super().write(offset, size, value)


def posting_board() -> tuple[Board, ModelPosts, bytearray]:
    said = bytearray()
    one, other, counter = Posting(said.extend), Posting(said.extend), Counter()
    board = board_of(
        PlacedDevice("one", one, (Window(Space.PORT, 0x10, 2, one),)),
        PlacedDevice("other", other, (Window(Space.PORT, 0x20, 2, other),)),
        placed("counter", counter, 0x30),
    )
    ring = ModelPosts()
    board.attach_fast_path(ring)
    return board, ring, said


def test_what_was_posted_comes_before_any_access_to_a_device_that_posts() -> None:
    board, ring, said = posting_board()
    with ring:
        for port, byte in ((0x10, b"a"), (0x20, b"b"), (0x10, b"c")):
            assert ring.takes_writes(port)
            ring.push(0, port, byte[0])
        board.port_in(0x30, 1, 1)
        assert said == b""  # Another device waits for nobody.
        board.port_out(0x20, 1, 1, b"d")
        assert said == b"abcd"
        ring.push(0, 0x10, ord("e"))
        board.port_in(0x10, 1, 1)
        assert said == b"abcde"
        for act in (board.drain_posted, board.reset, board.save_devices):
            ring.push(0, 0x20, ord("f"))
            said.clear()
            act()
            assert said == b"f"


def test_the_fast_path_is_told_after_each_access_what_it_may_answer() -> None:
    board, ring, _ = posting_board()
    with ring:
        board.port_out(0x11, 1, 1, b"\0")
        assert not ring.takes_writes(0x10)
        assert ring.read_value(0x10) is None
        assert ring.takes_writes(0x20)
        board.port_out(0x11, 1, 1, b"\1")
        assert ring.takes_writes(0x10)
        assert ring.read_value(0x10) == 0xE9


def test_an_observer_of_accesses_may_ask_what_was_said_in_the_middle_of_one() -> None:
    board, ring, said = posting_board()
    heard: list[bytes] = []

    def observed(_address: int, route: tuple[object, ...]) -> tuple[object, ...]:
        read, write, *rest = route

        def noting(offset: int, size: int, value: int) -> None:
            board.drain_posted()
            heard.append(bytes(said))
            write(offset, size, value)  # type: ignore[operator]

        return (read, noting, *rest)

    board.ports.on_route = observed  # type: ignore[assignment]
    with ring:
        for port in (0x10, 0x30):
            ring.push(0, 0x20, ord("x"))
            board.port_out(port, 1, 1, b"y")
    assert heard == [b"x", b"xyx"]


# -- a device that is added from here, and known to nothing else --

ASK = bytes.fromhex("ba0080 b007 ee ec e6e9 ba0080 ec e6f4 ebfe")
"""mov dx, 0x8000; mov al, 7; out dx, al; in al, dx; out 0xe9, al; in al, dx; out 0xf4, al"""


class Doubler(Stateless):
    """Reads give twice what was written last, and its backend notes that it has been served."""

    def __init__(self, served: list[str]) -> None:
        self.value = 0
        self.served = served

    def read(self, offset: int, size: int) -> int:
        del offset, size
        return self.value * 2 & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size
        self.value = value

    def backend(self, guard: Guard) -> DoublerTask:
        return DoublerTask(self, guard)


class DoublerTask:
    def __init__(self, device: Doubler, guard: Guard) -> None:
        self.device, self.guard = device, guard

    async def serve(self) -> None:
        with self.guard:
            self.device.served.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            self.device.served.append("cancelled")


def doubler(served: list[str], start: int, wiring: Wiring) -> PlacedDevice:
    assert wiring.memory == 2 * MIB
    device = Doubler(served)
    window = Window(Space.PORT, start, 1, device)
    return PlacedDevice("doubler", device, (window,), gsis=(9,), backend=device.backend)


@pytest.mark.parametrize("host", HOSTS)
def test_adding_a_device_takes_the_device_and_a_line_in_the_platform(host: HostChoice) -> None:
    served: list[str] = []
    choice = DeviceChoice(added=(partial(doubler, served, 0x8000),))
    completed = run(MachineConfig(ASK, memory=2 * MIB, host=host, devices=choice))
    assert completed.output == b"\x0e"
    assert completed.result.ending.status == 14
    assert served == ["begun", "cancelled"]


@pytest.mark.parametrize(
    ("start", "says"), [(0x71, "it overlaps CMOS clock at [0x70, 0x72)"), (0x1_0000, "within [0")]
)
def test_one_that_has_no_room_is_refused_before_the_guest_starts(start: int, says: str) -> None:
    choice = DeviceChoice(added=(partial(doubler, [], start),))
    with pytest.raises(UsageError) as refused:
        run(MachineConfig(ASK, memory=2 * MIB, host=HostChoice.MODEL, devices=choice))
    assert "put doubler at" in str(refused.value)
    assert says in str(refused.value)


def test_one_that_wants_the_line_of_another_is_refused_by_name() -> None:
    def make(wiring: Wiring) -> PlacedDevice:
        return doubler([], 0x8000, wiring)._replace(gsis=(ports.COM1_IRQ,))

    choice = DeviceChoice(added=(make,))
    with pytest.raises(UsageError, match="give GSI 4 to doubler: 16550 at COM1 has it"):
        run(MachineConfig(ASK, memory=2 * MIB, host=HostChoice.MODEL, devices=choice))


def test_a_backend_that_fails_ends_the_run_with_what_it_says() -> None:
    class BrokenError(PyvmmError):
        pass

    class BrokenTask(DoublerTask):
        async def serve(self) -> None:
            await trio.lowlevel.checkpoint()
            raise BrokenError("serve a test", "it is broken")

    def make(_wiring: Wiring) -> PlacedDevice:
        device = Doubler([])
        return PlacedDevice("broken", device, (), backend=partial(BrokenTask, device))

    choice = DeviceChoice(added=(make,))
    with pytest.raises(BrokenError):
        run(MachineConfig(b"\xeb\xfe", memory=2 * MIB, host=HostChoice.MODEL, devices=choice))


# -- the PC's own --


def pc_board(end: Callable[[Ending], None] = lambda _: None, **more: object) -> Board:
    wiring = Wiring(2 * MIB, ConsolePort(), end, lambda: None, **more)  # type: ignore[arg-type]
    return Board(pc_platform(wiring))


def test_completing_a_launch_keeps_no_other_vcpu_waiting_and_happens_once() -> None:
    async def main() -> None:
        slow = Slow()
        board = pc_board(launched=partial(slow, 0))
        threads = write_in_threads(board, [0x5F0], b"\0")
        assert slow.entered.acquire(timeout=LONG)
        # Neither at the launch port itself nor at any other.
        board.port_out(0x5F0, 1, 1, b"\0")
        assert board.port_in(0xF4, 1, 1) == b"\0"
        slow.let_go.set()
        finish(threads)
        assert slow.most == 1
        assert not slow.entered.acquire(blocking=False)

    trio.run(main)


def test_every_device_of_a_pc_is_named_once_and_can_be_saved() -> None:
    async def main() -> None:
        board = pc_board(launched=lambda: None)
        names = [placed.name for placed in board.platform.devices]
        assert [name for name, _ in board.save_devices()] == names
        assert {"16550 at COM1", "CMOS clock", "PCI ports", "launch port", "8254"} <= set(names)

    trio.run(main)


def test_the_board_knows_no_device() -> None:
    """It, and what serves posted writes, import the pure room's contracts and buses only."""
    import pyvmm.machine.board as board
    import pyvmm.machine.posted_writes as posted_writes

    allowed = {"bus", "placement", "posting", "protocols"}
    for module in (board, posted_writes):
        for value in vars(module).values():
            origin = getattr(value, "__module__", "") or ""
            if origin.startswith("pyvmm.devices."):
                assert origin.removeprefix("pyvmm.devices.") in allowed, (module, value)


@pytest.mark.parametrize("host", HOSTS)
def test_a_clock_interrupts_again_after_a_reset_in_place(host: HostChoice) -> None:
    """The clock's backend goes on across resets: nothing of it is made anew."""

    async def main() -> None:
        config = MachineConfig(b"\xeb\xfe", memory=2 * MIB, host=host, irqchip=IrqchipPolicy.ON)
        with trio.fail_after(HANG):
            async with open_machine(config) as machine:
                board = assembly_of(machine).board
                backends, devices = board.backends, board.platform.devices
                assert sum(isinstance(one, ClockTask) for one in backends) == 1
                for _ in range(2):
                    # Periodic events at 1 kHz, which the task is told of by the write itself.
                    for index, value in ((0x0A, 0x26), (0x0B, 0x42)):
                        board.port_out(0x70, 1, 1, bytes((index,)))
                        board.port_out(0x71, 1, 1, bytes((value,)))
                    # What has happened until now is taken: the next event needs the task.
                    board.port_out(0x70, 1, 1, b"\x0c")
                    board.port_in(0x71, 1, 1)
                    cmos = next(one.device for one in devices if one.name == "CMOS clock")
                    while not cmos.save().flags.happened & 0x80:  # type: ignore[attr-defined]
                        await trio.sleep(0.001)
                    await machine.control.reset()
                    assert not cmos.save().flags.happened & 0x80  # type: ignore[attr-defined]
                assert board.backends is backends
                machine.control.interrupt("by the test")
                assert (await machine.control.wait()).ending.kind is EndingKind.INTERRUPTED

    trio.run(main)
