# SPDX-License-Identifier: MIT
"""A machine for the firmware and nothing else: memory, vCPUs, and answers to its ports."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pyvmm.boot.launch import LaunchImage, LaunchReport, parse_report, staging
from pyvmm.boot.launch_format import LAUNCH_REPORT
from pyvmm.devices import ports
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.memory.layout import FIRMWARE_GPA, FIRMWARE_SIZE, MIB, STAGING_GPA, GpaRange

ENTRY = 0x10_0000
START_INFO = 0x6010
RAM = GpaRange(0, 2 * MIB)
HIGH_RAM = GpaRange(1 << 32, (1 << 32) + MIB)
STAGING_SIZE = 64 * MIB
"""More than any block of a test asks for, unless it asks for what cannot be."""
TELL = 0x500
"""Where ``payload.S`` tells what it finds."""
PATIENCE = 60.0
"""Seconds until a launch counts as hung; nothing depends on being quick."""

_MAP_GPA_RANGE = 12
_LINE_STATUS = ports.COM1 + 5
_ROOM = b"\x60"


@dataclass
class Launched:
    """What came out of it. `told` are the words written to TELL; `conversions` (gpa, pages, to).

    `status` is the run's, None when it ended otherwise: then `ending` is the exit that nobody
    answers. `entered` is CPU 0 when it first told something. `untouched`: all RAM that the host
    sees is zero.
    """

    console: bytes = b""
    told: list[int] = field(default_factory=list)
    conversions: list[tuple[int, int, int]] = field(default_factory=list)
    status: int | None = None
    ending: exits.Exit | None = None
    complete: bool = False
    report: LaunchReport | None = None
    entered: tuple[Regs, Sregs] | None = None
    untouched: bool = False


class Launch:
    """One run of the firmware with a boot block and a payload of the test's choice.

    `private`: a VM whose RAM has a private side, and hypercalls are answered by converting;
    otherwise there are none. `refuse` says which conversions (gpa, pages) are answered with -22.
    With `staged` there is no memory in the staging area: each read (offset, size) is answered anew.
    """

    def __init__(
        self,
        system: System,
        firmware: bytes,
        *,
        private: bool = False,
        refuse: Callable[[int, int], bool] = lambda gpa, pages: False,
        staged: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self._system = system
        self._firmware = firmware
        self._private = private
        self._refuse = refuse
        self._staged = staged
        self._lock = threading.Lock()
        self._over = False

    def image(
        self,
        image: LaunchImage,
        cpus: int = 1,
        vcpus: int | None = None,
        *,
        regions: Sequence[GpaRange] = (RAM,),
        expected: bytes | None = None,
        window: GpaRange | None = None,
        hold: Callable[[bytes], bool] = lambda firmware: True,
        planted: Sequence[tuple[int, bytes]] = (),
    ) -> Launched:
        """Launch `image` by a boot block for `cpus`, on as many vCPUs or on `vcpus`.

        vCPU 0 begins when `hold` is true of the firmware's memory. `planted` (gpa, bytes) is in the
        first region before.
        """
        staged = staging(
            image, regions, cpus, convert=self._private, expected=expected, window=window
        )
        pieces = [(piece.offset, piece.data) for piece in staged.pieces]
        return self.run(pieces, range(vcpus or cpus), regions, hold, planted)

    def run(
        self,
        pieces: Sequence[tuple[int, bytes | memoryview]],
        indices: Sequence[int] = (0,),
        regions: Sequence[GpaRange] = (RAM,),
        hold: Callable[[bytes], bool] = lambda firmware: True,
        planted: Sequence[tuple[int, bytes]] = (),
    ) -> Launched:
        """Launch with `pieces` in the staging area, on vCPUs with these numbers."""
        launched = Launched()
        with ExitStack() as stack:
            kind = VmType.SW_PROTECTED if self._private else VmType.DEFAULT
            vm = stack.enter_context(self._system.create_vm(kind))
            if self._private:
                vm.enable_hypercall_exits(1 << _MAP_GPA_RANGE)
            ram = [self._add_ram(stack, vm, *numbered) for numbered in enumerate(regions)]
            for gpa, plant in planted:
                _write(ram[0], gpa, plant)
            if self._staged is None:
                staged = self._add(stack, vm, 3, STAGING_GPA, STAGING_SIZE)
                for offset, data in pieces:
                    _write(staged, offset, data)
            firmware = self._add(stack, vm, 4, FIRMWARE_GPA, FIRMWARE_SIZE)
            _write(firmware, 0, self._firmware)

            def may_begin() -> bool:
                with firmware.view() as view:
                    return hold(bytes(view))

            self._run_all(vm, indices, launched, may_begin)
            with firmware.view() as view:
                launched.report = parse_report(bytes(view[: LAUNCH_REPORT.size]))
            launched.untouched = all(map(_is_zero, ram))
        return launched

    def _add(self, stack: ExitStack, vm: Vm, slot: int, gpa: int, size: int) -> Mapping:
        mapping = stack.enter_context(self._system.map_anonymous(size))
        vm.set_memslot(Memslot(slot, gpa, size, mapping.hva))
        return mapping

    def _add_ram(self, stack: ExitStack, vm: Vm, slot: int, region: GpaRange) -> Mapping:
        if not self._private:
            return self._add(stack, vm, slot, region.start, region.size)
        shared = stack.enter_context(self._system.map_anonymous(region.size))
        memfd = stack.enter_context(vm.create_guest_memfd(region.size))
        vm.set_memslot(Memslot(slot, region.start, region.size, shared.hva, guest_memfd=memfd))
        return shared

    def _run_all(
        self, vm: Vm, indices: Sequence[int], launched: Launched, may_begin: Callable[[], bool]
    ) -> None:
        vcpus: list[Vcpu] = []
        failures: list[BaseException] = []

        def work(index: int) -> None:
            try:
                with vm.create_vcpu(index) as vcpu:
                    vcpu.use_host_cpuid()
                    with self._lock:
                        vcpus.append(vcpu)
                    while index == 0 and not self._over and not may_begin():
                        time.sleep(0.01)
                    while not self._over:
                        self._answer(vm, vcpu, index, vcpu.run(), launched)
                    with self._lock:
                        vcpus.remove(vcpu)
            except BaseException as failure:  # noqa: BLE001 - raised by the test's own thread
                failures.append(failure)
            finally:
                end()

        def end() -> None:
            self._over = True
            with self._lock:
                for vcpu in vcpus:
                    vcpu.kick()

        threads = [threading.Thread(target=work, args=(index,)) for index in indices]
        hung = threading.Timer(PATIENCE, end)
        hung.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hung.cancel()
        hung.join()
        for failure in failures:
            raise failure

    def _answer(self, vm: Vm, vcpu: Vcpu, index: int, stop: exits.Exit, launched: Launched) -> None:
        match stop:
            case exits.IoOut(port=ports.COM1):
                launched.console += stop.data
            case exits.IoIn(port=port):
                vcpu.answer(_ROOM if port == _LINE_STATUS else b"\xff" * stop.size * stop.count)
            case exits.IoOut(port=ports.LAUNCH):
                assert (stop.data, index) == (b"\0", 0)
                launched.complete = True
                vm.set_memslot(Memslot(4, FIRMWARE_GPA, 0, 0))
                if self._staged is None:
                    vm.set_memslot(Memslot(3, STAGING_GPA, 0, 0))
            case exits.IoOut(port=ports.EXIT):
                launched.status = stop.data[0]
                self._over = True
            case exits.IoOut(port=port, size=4) if port == TELL:
                if launched.entered is None:
                    launched.entered = (vcpu.get_regs(), vcpu.get_sregs())
                launched.told += struct.unpack("<I", stop.data)
            case exits.MmioRead(gpa=gpa, size=size):
                staged = self._staged(gpa - STAGING_GPA, size) if self._staged else None
                vcpu.answer(staged or b"\xff" * size)
            case exits.Hypercall(number=number, args=(gpa, pages, to, *_)):
                assert number == _MAP_GPA_RANGE
                launched.conversions.append((gpa, pages, to))
                if self._refuse(gpa, pages):
                    vcpu.answer_hypercall(-22 & (1 << 64) - 1)
                else:
                    vm.set_memory_attributes(gpa, pages * 4096, MemoryAttribute.PRIVATE)
                    vcpu.answer_hypercall(0)
            case exits.Interrupted():
                pass
            case _:
                launched.ending = stop
                self._over = True


def _write(mapping: Mapping, offset: int, data: bytes | memoryview) -> None:
    with mapping.view() as view:
        view[offset : offset + len(data)] = data


def _is_zero(mapping: Mapping) -> bool:
    with mapping.view() as view:
        return not any(bytes(view))
