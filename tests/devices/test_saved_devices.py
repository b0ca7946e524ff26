# SPDX-License-Identifier: MIT
"""A device that was saved at any point and restored into another goes on as the one that was not.

And one that is reset is as it was made. All devices, whatever a guest does to them.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyvmm.devices
from pyvmm.devices.cmos import Cmos
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.fw_cfg import FwCfg, item_of, with_directory
from pyvmm.devices.launch_port import LaunchPort
from pyvmm.devices.pc_testdev import LINES, PcTestDevice
from pyvmm.devices.pci.segment import Ecam, GuardedFunction, PciSegment
from pyvmm.devices.pci_ports import PciPorts
from pyvmm.devices.post_code import PostCode
from pyvmm.devices.power import PowerManagement
from pyvmm.devices.protocols import Registers
from pyvmm.devices.pvpanic import Pvpanic
from pyvmm.devices.reset import FastReset, KeyboardController
from pyvmm.devices.stateless import Stateless
from pyvmm.devices.timers import PitTimer, PmTimer
from pyvmm.devices.uart import Uart16550
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.mmio import Register, VirtioMmio
from pyvmm.devices.virtio.pci import VirtioPci
from pyvmm.devices.virtio.pci_registers import Register as PciRegister
from pyvmm.devices.virtio.rings import QueuePosition
from pyvmm.errors import UsageError

from .guest_bytes import Memory
from .pci.test_msix import Messages
from .test_pci_ports import OneFunction
from .virtio.a_model import PlainModel
from .virtio.test_pci import Model

MONDAY = datetime.datetime(2024, 2, 26, 23, 59, 57, tzinfo=datetime.UTC)
OTHER_HOST = 4096.0
"""Seconds by which the clock of the machine that is restored into is ahead, where a clock's origin
is nobody's business."""


@dataclass
class World:
    """What one device sees and does: the time in seconds, and its effects in order."""

    now: float = 1.0
    ahead: float = 0.0
    effects: list[object] = field(default_factory=list)
    lines: dict[int, bool] = field(default_factory=dict)

    def monotonic(self) -> float:
        return self.now + self.ahead

    def utc(self) -> datetime.datetime:
        return MONDAY + datetime.timedelta(seconds=self.now)

    def note(self, *what: object) -> None:
        self.effects.append(what)

    def set_line(self, gsi: int, level: bool) -> None:
        self.lines[gsi] = level

    def line(self, gsi: int) -> Callable[[bool], None]:
        return lambda level: self.set_line(gsi, level)


Made = tuple[Any, Sequence[Registers]]
"""A device, and what answers in each of its windows."""


def uart(world: World) -> Made:
    device = Uart16550(lambda data: world.note("said", data), world.line(4))
    return device, [device]


def fw_cfg(_world: World) -> Made:
    memory = Memory(64)
    memory.bytes[:16] = bytes.fromhex("00000002 00000004 00000000 00000020")
    made = FwCfg(lambda: with_directory({0: item_of(b"QEMU"), 5: item_of(b"1234567")}, {}), memory)
    return made, [made.registers, made.dma, GuestView(memory)]


class GuestView:
    """Guest memory as a register, so that what a transfer left there counts as an answer."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def read(self, offset: int, size: int) -> int:
        del offset, size
        return int.from_bytes(self.memory.bytes, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        pass


def cmos(world: World) -> Made:
    device = Cmos(world.utc, 1 << 28, world.line(8))
    device.on_change = partial(world.note, "changed")
    return device, [device]


def pci(world: World) -> Made:
    device = PciPorts(lambda: world.note("reset"), OneFunction())
    return device, [device, device.data]


def pc_testdev(world: World) -> Made:
    device = PcTestDevice(world.set_line)
    registers: list[Registers] = [
        device.bank,
        device.flush,
        device.bank_byte(1),
        device.lines,
        device.window,
    ]
    return device, registers


def pit(world: World) -> Made:
    device = PitTimer(world.monotonic)
    return device, [device.registers, device.port_b]


def keyboard(world: World) -> Made:
    device = KeyboardController(lambda: world.note("reset"))
    return device, [device.command, device.data]


def virtio(world: World) -> Made:
    core = VirtioCore(PlainModel())
    device = VirtioMmio(core)
    core.on_start = partial(world.note, "started")
    core.on_notify = partial(world.note, "notified")
    device.on_line = partial(world.set_line, 5)
    return device, [device, Reasons(core)]


def virtio_pci(world: World) -> Made:
    core = VirtioCore(Model())
    device = VirtioPci(core)
    messages = Messages()
    device.msix.on_vectors, device.msix.pending = messages.change, messages.kept.__contains__
    device.on_line = world.line(11)
    device.on_message = messages.signal
    device.on_forget = messages.forget
    device.on_keep = messages.signal_all
    segment = PciSegment()
    segment.add(GuardedFunction("device", device.space))
    return device, [device.registers, device.msix, Ecam(segment), Sent(core, messages)]


class Sent:
    """What the backend does, as a register; what has been sent reads back."""

    def __init__(self, core: VirtioCore, messages: Messages) -> None:
        self.core = core
        self.messages = messages

    def read(self, offset: int, size: int) -> int:
        del offset, size
        sent = sum(hash(msi) for msi in self.messages.sent)
        self.messages.sent.clear()
        return sent

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size
        self.core.interrupt(value if value < 2 else None)


class Reasons:
    """What the backend does, as a register."""

    def __init__(self, core: VirtioCore) -> None:
        self.core = core

    def read(self, offset: int, size: int) -> int:
        del size
        queue = offset & 1
        if self.core.running(queue) is None:
            return 0
        available, used, *_ = self.core.position(queue)
        self.core.move(queue, QueuePosition(available + 1 & 0xFFFF, used + 1 & 0xFFFF))
        return used

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size
        if value == 1:
            self.core.interrupt(0)
        elif value == 2:
            self.core.fail()


def power(world: World) -> Made:
    device = PowerManagement(world.line(9), lambda: world.note("off"))
    return device, [device.events, device.control, Finger(device)]


class Finger:
    """The power button as a register: a write presses it."""

    def __init__(self, device: PowerManagement) -> None:
        self.device = device

    def read(self, offset: int, size: int) -> int:
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size, value
        self.device.press()


def alone(make: Callable[[World], Any]) -> Callable[[World], Made]:
    def made(world: World) -> Made:
        device = make(world)
        return device, [device]

    return made


DEVICES: dict[str, Callable[[World], Made]] = {
    "uart": uart,
    "debug console": alone(lambda world: DebugConsole(lambda data: world.note("said", data))),
    "cmos": cmos,
    "pvpanic": alone(lambda world: Pvpanic(world.note)),
    "keyboard": keyboard,
    "power": power,
    "POST codes": alone(lambda _world: PostCode()),
    "fast reset": alone(lambda world: FastReset(lambda: world.note("reset"))),
    "pci ports": pci,
    "8254": pit,
    "pm timer": alone(lambda world: PmTimer(world.monotonic)),
    "pc-testdev": pc_testdev,
    "fw_cfg": fw_cfg,
    "launch port": alone(lambda world: LaunchPort(lambda: world.note("launched"))),
    "exit port": alone(lambda world: ExitPort(world.note)),
    "virtio": virtio,
    "virtio pci": virtio_pci,
}

Step = tuple[str, int, int, int, int]
"""Read, write, the time, or input; which window, offset, size, and a value."""


def cmos_byte(index: int, value: int) -> list[Step]:
    return [("write", 0, 0, 1, index), ("write", 0, 1, 1, value)]


def writes(window: int, size: int, *values: int, offset: int = 0) -> list[list[Step]]:
    return [[("write", window, offset, size, value)] for value in values]


PHRASES: dict[str, list[list[Step]]] = {
    "cmos": [
        *(cmos_byte(0x0A, value) for value in (0x26, 0x2F, 0x20)),
        *(cmos_byte(0x0B, value) for value in (0x02, 0x12, 0x42, 0x72, 0x82)),
        *(cmos_byte(index, 0xC0) for index in (1, 3, 5)),
        [("write", 0, 0, 1, 0x0C), ("read", 0, 1, 1, 0)],
        [("write", 0, 0, 1, 0), ("read", 0, 1, 1, 0)],
        [("time", 0, 0, 1, 700)],
    ],
    "8254": [
        *writes(0, 1, 0x34, 0x36, 0xB0, 0xB6, 0xC2, 0xE8, offset=3),
        *writes(0, 1, 0x00, 0x12, offset=0),
        *writes(0, 1, 0x00, 0x12, offset=2),
        *writes(1, 1, 0, 1, 3),
        [("time", 0, 0, 1, 3)],
    ],
    "uart": [
        *writes(0, 1, 0, 2, 3, 0x0F, offset=1),
        *writes(0, 1, 0, 1, 0xC1, 3, offset=2),
        *writes(0, 1, 3, 0x83, offset=3),
        *writes(0, 1, 0, 0x1F, 0x10, offset=4),
        [("input", 0, 0, 1, 0x0941)],
        [("read", 0, 2, 1, 0)],
        [("read", 0, 0, 1, 0)],
    ],
    "pci ports": [*writes(0, 4, 0x8000_1900, 0x8000_1944), [("read", 1, 0, 4, 0)]],
    "fw_cfg": [
        *writes(0, 2, 0, 5, 0x19),
        [("read", 0, 1, 1, 0)],
        *writes(1, 4, 0, 1),
        *writes(1, 4, 0, offset=4),
    ],
    "virtio": [
        *writes(0, 4, 0, 3, 11, 15, offset=Register.STATUS),
        *writes(0, 4, 0, 1, 2, offset=Register.QUEUE_SELECT),
        *writes(0, 4, 0, 1, offset=Register.DRIVER_FEATURES_SELECT),
        *writes(0, 4, 0, 1, 1 << 9, offset=Register.DRIVER_FEATURES),
        *writes(0, 4, 16, offset=Register.QUEUE_SIZE),
        *writes(0, 4, 0x1000, offset=Register.DESCRIPTORS_LOW),
        *writes(0, 4, 1, offset=Register.DEVICE_HIGH),
        *writes(0, 4, 0, 1, offset=Register.QUEUE_READY),
        [
            ("write", 0, Register.STATUS, 4, 3),
            ("write", 0, Register.DRIVER_FEATURES_SELECT, 4, 1),
            ("write", 0, Register.DRIVER_FEATURES, 4, 1),
            ("write", 0, Register.STATUS, 4, 11),
            ("write", 0, Register.QUEUE_READY, 4, 1),
            ("write", 0, Register.STATUS, 4, 15),
            ("read", 1, 0, 4, 0),
        ],
        *writes(1, 4, 1, 2),
        [("read", 0, int(where), 4, 0) for where in Register],
    ],
    "virtio pci": [
        *writes(0, 1, 0, 3, 11, 15, offset=PciRegister.STATUS),
        *writes(0, 2, 0, 1, 2, offset=PciRegister.QUEUE_SELECT),
        *writes(0, 2, 0, 1, offset=PciRegister.QUEUE_VECTOR),
        *writes(0, 2, 1, offset=PciRegister.CONFIG_VECTOR),
        [
            ("write", 0, PciRegister.STATUS, 1, 3),
            ("write", 0, PciRegister.DRIVER_FEATURES_SELECT, 4, 1),
            ("write", 0, PciRegister.DRIVER_FEATURES, 4, 1),
            ("write", 0, PciRegister.STATUS, 1, 11),
            ("write", 0, PciRegister.STATUS, 1, 15),
        ],
        *writes(1, 4, 0, 1, offset=12),
        *writes(1, 4, 0xFEE0_0000, offset=16),
        *writes(2, 2, 0, 4, 7, 0x407, offset=4),
        *writes(2, 2, 0, 0x8000, 0xC000, offset=0x42),
        *writes(2, 4, 0, 0xC100, offset=0x10),
        *writes(3, 4, 0, 1, 2),
        [("read", 3, 0, 4, 0)],
        [("read", 0, int(where), 4, 0) for where in PciRegister],
        [("read", 2, where, 4, 0) for where in range(0, 0x100, 4)],
    ],
    "pc-testdev": [*writes(3, 1, 1, offset=5), *writes(4, 4, 0x1234)],
}
"""Steps that get a device somewhere, which random ones seldom do."""


def steps(name: str) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(
        st.sampled_from(["read", "write", "write", "time", "input"]),
        st.integers(0, 4),
        st.integers(0, LINES),
        st.sampled_from([1, 2, 4]),
        st.one_of(st.sampled_from([0, 1]), st.integers(0, 0xFFFF_FFFF)),
    )
    phrase = step.map(lambda one: [one])
    if name in PHRASES:
        phrase = st.one_of(st.sampled_from(PHRASES[name]), phrase)
    return st.lists(phrase, max_size=12).map(lambda phrases: list(chain(*phrases)))


def answer(made: Made, world: World, step: Step) -> object:
    device, windows = made
    kind, which, offset, size, value = step
    registers = windows[which % len(windows)]
    match kind:
        case "read":
            got = registers.read(offset, size)
            # Port 0x61 shows the memory refresh by the clock itself, which has no state.
            return got & ~0x10 if type(registers).__name__ == "PortB" else got
        case "write":
            registers.write(offset, size, value & (1 << 8 * size) - 1)
        case "time":
            world.now += (value & 0xFFF) / 1024
            if isinstance(device, Cmos):
                device.poll()
        case _ if isinstance(device, Uart16550):
            return device.receive(bytes((value & 0xFF,)) * (value >> 8 & 0x1F))
    return None


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.slow
def test_a_restored_device_goes_on_as_the_one_that_was_saved(name: str) -> None:
    make = DEVICES[name]

    @given(steps(name), steps(name), steps(name))
    def check(before: list[Step], elsewhere: list[Step], after: list[Step]) -> None:
        world = World()
        made = make(world)
        for step in before:
            answer(made, world, step)
        saved = made[0].save()
        assert made[0].save() == saved, "saving changes nothing"
        hash(saved)
        # Into a device that is not new either, in a machine whose clock has another origin.
        other = World(world.now, OTHER_HOST)
        restored = make(other)
        for step in elsewhere:
            answer(restored, other, step)
        other.now = world.now
        _copy_memory(made, restored)
        restored[0].restore(saved)
        assert alike(restored[0].save()) == alike(saved)
        other.effects.clear()
        world.effects.clear()
        assert _up(other) == _up(world)
        for step in after:
            assert answer(restored, other, step) == answer(made, world, step), step
            assert _up(other) == _up(world), step
        assert other.effects == world.effects
        assert alike(restored[0].save()) == alike(made[0].save())

    few_for_the_stateless(check, make)()


def alike(value: object) -> object:
    """A saved value to compare: two clocks round differently."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), *(alike(getattr(value, one.name)) for one in dataclasses.fields(value))
    if isinstance(value, tuple):
        return tuple(map(alike, value))
    return round(value, 6) if isinstance(value, float) else value


def few_for_the_stateless(
    check: Callable[[], None], make: Callable[[World], Made]
) -> Callable[[], None]:
    """A device without any state has nothing to be found by more examples."""
    return settings(max_examples=5)(check) if isinstance(make(World())[0], Stateless) else check


def _up(world: World) -> set[int]:
    """Interrupt lines that are raised."""
    return {gsi for gsi, level in world.lines.items() if level}


def _copy_memory(made: Made, restored: Made) -> None:
    """What a device reaches and does not own: guest memory, and the functions behind PCI."""
    for ours, theirs in zip(made[1], restored[1], strict=True):
        if isinstance(ours, GuestView) and isinstance(theirs, GuestView):
            theirs.memory.bytes[:] = ours.memory.bytes
        space = getattr(ours, "_space", None)
        if isinstance(space, OneFunction):
            theirs._space.bytes[:] = space.bytes  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.slow
def test_a_reset_device_is_as_it_was_made(name: str) -> None:
    make = DEVICES[name]

    @given(steps(name), steps(name))
    def check(before: list[Step], after: list[Step]) -> None:
        world = World()
        made = make(world)
        for step in before:
            answer(made, world, step)
        made[0].reset()
        assert not _up(world), "it lets go of its lines"
        other = World(world.now)
        new = make(other)
        _copy_memory(made, new)
        assert made[0].save() == new[0].save()
        world.effects.clear()
        for step in after:
            assert answer(new, other, step) == answer(made, world, step), step
            assert _up(other) == _up(world), step
        assert other.effects == world.effects

    few_for_the_stateless(check, make)()


@pytest.mark.parametrize("name", DEVICES)
def test_the_saved_value_is_frozen_and_says_something(name: str) -> None:
    world = World()
    made = DEVICES[name](world)
    saved = made[0].save()
    if isinstance(saved, tuple):
        values = tuple(saved)
    else:
        assert dataclasses.is_dataclass(saved)
        assert vars(type(saved))["__dataclass_params__"].frozen
        assert not isinstance(saved, type)
        values = tuple(dataclasses.asdict(saved).values())
    for value in values:
        assert value is None or isinstance(value, int | float | bytes | tuple | dict)


def test_a_device_of_each_module_is_there() -> None:
    """A new device that is forgotten above is not forgotten here."""
    made = [make(World()) for make in DEVICES.values()]
    kinds = {type(part).__module__ for device, parts in made for part in (device, *parts)}
    folder = Path(pyvmm.devices.__file__).parent
    with_reset = {
        ".".join(("pyvmm.devices", *path.relative_to(folder).with_suffix("").parts))
        for path in folder.rglob("*.py")
        if "def write(self, offset" in path.read_text() and path.stem != "protocols"
    }
    assert with_reset <= kinds


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("uart", {"received": bytes(17)}),
        ("uart", {"divisor": 1 << 16}),
        ("uart", {"ier": -1}),
        ("uart", {"lcr": "3"}),
        ("cmos", {"contents": bytes(5)}),
        ("cmos", {"index": 128}),
        ("cmos", {"held": 1 << 70}),
        ("cmos", {"flags": None}),
        ("fast reset", {"value": 256}),
        ("power", {"status": 1 << 16}),
        ("power", {"enable": -1}),
        ("pci ports", {"address": 1 << 32}),
        ("pm timer", {"seconds": float("nan")}),
        ("pc-testdev", {"bank": b""}),
        ("pc-testdev", {"raised": (LINES,)}),
        ("pc-testdev", {"window": b"1"}),
        ("fw_cfg", {"key": 1 << 16}),
        ("fw_cfg", {"upper": 1 << 32}),
        ("fw_cfg", {"offset": -1}),
        ("virtio", {"interrupt": 4}),
        ("virtio", {"selects": (0, 0)}),
    ],
)
def test_a_value_that_no_device_was_saved_with_is_refused(
    name: str, changed: dict[str, object]
) -> None:
    saved = DEVICES[name](World())[0].save()
    assert dataclasses.replace(saved) == saved
    with pytest.raises(UsageError) as refused:
        dataclasses.replace(saved, **changed)
    assert type(saved).__name__ in str(refused.value)
    assert next(iter(changed)) in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [{"reload": 0}, {"reload": 0x10001}, {"mode": 6}, {"access": 0}, {"passed": math.inf}],
)
def test_a_timer_that_cannot_be_is_refused_and_changes_nothing(changed: dict[str, Any]) -> None:
    device = PitTimer(World().monotonic)
    saved = device.save()
    first, *others = saved.counters
    for counters in ((first._replace(**changed), *others), (first,)):
        with pytest.raises(UsageError, match="no 8254 is in such a state"):
            device.restore(saved._replace(counters=counters))
    assert device.save() == saved
