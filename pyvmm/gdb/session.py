# SPDX-License-Identifier: MIT
"""Requests of GDB's remote protocol, and their answers, over a machine that stands still. Pure.

Threads are vCPUs, numbered from 1 on. All-stop: what runs is none of this module's; a request to
let the guest run is handed to whoever serves the connection. Source: GDB's manual, "Packets",
"Stop Reply Packets", "General Query Packets".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pyvmm.errors import PyvmmError
from pyvmm.gdb.fields import (
    Kind,
    MalformedError,
    action,
    after_signal,
    breakpoint_place,
    each_register,
    memory_range,
    number,
    register_number,
    thread_id,
)
from pyvmm.gdb.packets import LONGEST, escaped_prefix
from pyvmm.gdb.registers import REGISTERS, Register, encode
from pyvmm.gdb.registers_xml import target_xml
from pyvmm.gdb.target import Answer, Leave, Run, Stop, Target

OK: Final = b"OK"
UNKNOWN: Final = b""
"""Answer to a request that the stub does not know: GDB then does without."""
NOT_MAPPED: Final = b"E0e"
"""EFAULT: no such memory, or none that the host may see."""
MALFORMED: Final = b"E16"
"""EINVAL."""
_SIGINT, _SIGTRAP = 2, 5
_MOST_MEMORY: Final = LONGEST // 2 - 8
"""Bytes of memory in an answer, each of two digits."""
_MONITOR_PART: Final = 0x1000
_FEATURES: Final = (
    b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;hwbreak+;swbreak+;"
    b"binary-upload+" % LONGEST
)


_Handler: TypeAlias = "Callable[[Session, bytes], Awaitable[bytes | Answer]]"


@dataclass
class Session:
    """State of one connection: the thread that GDB means, its breakpoints, what it understands."""

    target: Target
    vcpu: int = 0
    """The vCPU that registers and memory are of (``Hg``)."""
    acknowledges: bool = True
    """False from QStartNoAckMode on."""
    _breakpoints: dict[int, set[Kind]] = field(default_factory=dict)
    _tells: frozenset[bytes] = frozenset()

    async def handle(self, request: bytes) -> Answer:
        """Answer a packet. Raises no `PyvmmError`: those are answers, too."""
        try:
            answer = await self._handler(request)
        except (MalformedError, ValueError, UnicodeDecodeError):
            answer = MALFORMED
        except PyvmmError as error:
            answer = told(error)
        return answer if isinstance(answer, Answer) else Answer((answer,))

    async def _handler(self, request: bytes) -> bytes | Answer:
        for name, handler in _NAMED.items():
            if request == name or (
                request.startswith(name)
                and request[len(name) : len(name) + 1] in (b":", b";", b",")
            ):
                return await handler(self, request[len(name) + 1 :])
        letter = _LETTERS.get(request[:1])
        return UNKNOWN if letter is None else await letter(self, request[1:])

    async def end(self) -> None:
        """Take back what the session has put into the machine."""
        while self._breakpoints:
            address, _ = self._breakpoints.popitem()
            await self.target.clear_breakpoint(address)

    def stopped(self, stop: Stop) -> bytes:
        """The stop reply."""
        if stop.vcpu is not None:
            self.vcpu = stop.vcpu
        signal = _SIGINT if stop.vcpu is None else _SIGTRAP
        return b"T%02xthread:%x;%b" % (signal, self.vcpu + 1, self._reason(stop))

    def _reason(self, stop: Stop) -> bytes:
        if stop.stepped or stop.address is None:
            return b""
        kinds = self._breakpoints.get(stop.address, {Kind.HARDWARE})
        name = b"hwbreak" if Kind.HARDWARE in kinds else b"swbreak"
        return name + b":;" if name in self._tells else b""

    # -- what runs --

    async def _stop_reason(self, _rest: bytes) -> bytes:
        return b"T%02xthread:%x;" % (_SIGTRAP, self.vcpu + 1)

    async def _continue(self, rest: bytes) -> Answer:
        await self._go_from(rest)
        return Answer((), Run(frozenset(range(self.target.vcpus))))

    async def _step(self, rest: bytes) -> Answer:
        await self._go_from(rest)
        return Answer((), Run(frozenset((self.vcpu,)), self.vcpu))

    async def _continue_with_signal(self, rest: bytes) -> Answer:
        return await self._continue(after_signal(rest))

    async def _step_with_signal(self, rest: bytes) -> Answer:
        return await self._step(after_signal(rest))

    async def _go_from(self, address: bytes) -> None:
        if address:
            values = await self.target.read(self.vcpu)
            rip = next(one for one in REGISTERS if one.name == "rip")
            await self.target.write(self.vcpu, rip.write(values, number(address)))

    async def _vcont(self, rest: bytes) -> bytes | Answer:
        actions = [action(one) for one in rest.split(b";")]
        running, steps = set(), []
        for vcpu in range(self.target.vcpus):
            # The first that applies counts.
            letter = next((one for one, thread in actions if thread in (None, vcpu + 1)), b"")
            if letter == b"s":
                steps.append(vcpu)
            elif letter == b"c":
                running.add(vcpu)
        if not running and not steps:
            return MALFORMED
        # Steps of several at once: all stop when the first has been made.
        step = self.vcpu if self.vcpu in steps else steps[0] if steps else None
        return Answer((), Run(frozenset(running if step is None else {*running, step}), step))

    async def _vcont_actions(self, _rest: bytes) -> bytes:
        return b"vCont;c;C;s;S"

    async def _detach(self, _rest: bytes) -> Answer:
        return Answer((OK,), Leave.DETACH)

    async def _kill(self, rest: bytes) -> bytes | Answer:
        return Answer((), Leave.KILL) if not rest else MALFORMED

    async def _kill_and_say(self, _rest: bytes) -> Answer:
        return Answer((OK,), Leave.KILL)

    # -- threads --

    async def _choose(self, rest: bytes) -> bytes:
        if rest[:1] not in (b"g", b"c"):
            return MALFORMED
        thread = thread_id(rest[1:])
        if thread is None:
            return OK
        vcpu = self._vcpu(thread)
        if rest[:1] == b"g":
            self.vcpu = vcpu
        return OK

    def _vcpu(self, thread: int) -> int:
        if not 1 <= thread <= self.target.vcpus:
            raise MalformedError
        return thread - 1

    async def _is_alive(self, rest: bytes) -> bytes:
        self._vcpu(thread_id(rest) or 0)
        return OK

    async def _current(self, _rest: bytes) -> bytes:
        return b"QC%x" % (self.vcpu + 1)

    async def _threads(self, _rest: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (vcpu + 1) for vcpu in range(self.target.vcpus))

    async def _no_more_threads(self, _rest: bytes) -> bytes:
        return b"l"

    async def _thread_info(self, rest: bytes) -> bytes:
        vcpu = self._vcpu(thread_id(rest) or 0)
        halted = (await self.target.read(vcpu)).further.halted
        return f"vCPU {vcpu}{' [halted]' if halted else ''}".encode("ascii").hex().encode("ascii")

    # -- registers and memory --

    async def _read_all(self, _rest: bytes) -> bytes:
        values = await self.target.read(self.vcpu)
        return b"".join(encode(one, values) for one in REGISTERS)

    async def _read_one(self, rest: bytes) -> bytes:
        return encode(register_number(rest), await self.target.read(self.vcpu))

    async def _write_one(self, rest: bytes) -> bytes:
        which, _, digits = rest.partition(b"=")
        return await self._write(((register_number(which), digits),))

    async def _write_all(self, rest: bytes) -> bytes:
        if len(rest) != 2 * sum(one.size for one in REGISTERS):
            return MALFORMED
        return await self._write(tuple(each_register(rest)))

    async def _write(self, wanted: tuple[tuple[Register, bytes], ...]) -> bytes:
        before = values = await self.target.read(self.vcpu)
        for register, digits in wanted:
            if len(digits) != 2 * register.size:
                return MALFORMED
            if digits.lower() == encode(register, before):
                continue
            if not register.is_writable:
                return f"E.{register.name} cannot be written".encode("ascii")
            values = register.write(
                values, int.from_bytes(bytes.fromhex(digits.decode()), "little")
            )
        if values != before:
            await self.target.write(self.vcpu, values)
        return OK

    async def _read_memory(self, rest: bytes) -> bytes:
        address, size = memory_range(rest)
        data = await self.target.read_memory(self.vcpu, address, min(size, _MOST_MEMORY))
        return data.hex().encode("ascii") if data or not size else NOT_MAPPED

    async def _read_binary(self, rest: bytes) -> bytes:
        address, size = memory_range(rest)
        data = await self.target.read_memory(self.vcpu, address, min(size, _MOST_MEMORY))
        return b"b" + escaped_prefix(data, LONGEST - 1) if data or not size else NOT_MAPPED

    async def _write_memory(self, rest: bytes) -> bytes:
        place, _, digits = rest.partition(b":")
        return await self._store(place, bytes.fromhex(digits.decode("ascii")))

    async def _write_binary(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return await self._store(place, data)

    async def _store(self, place: bytes, data: bytes) -> bytes:
        address, size = memory_range(place)
        if size != len(data):
            return MALFORMED
        written = not data or await self.target.write_memory(self.vcpu, address, data)
        return OK if written else NOT_MAPPED

    # -- breakpoints --

    async def _insert(self, rest: bytes) -> bytes:
        kind, address = breakpoint_place(rest)
        if kind is None:
            return UNKNOWN
        if address not in self._breakpoints:
            await self.target.set_breakpoint(address)
        self._breakpoints.setdefault(address, set()).add(kind)
        return OK

    async def _remove(self, rest: bytes) -> bytes:
        kind, address = breakpoint_place(rest)
        if kind is None:
            return UNKNOWN
        kinds = self._breakpoints.get(address, set())
        kinds.discard(kind)
        if not kinds and self._breakpoints.pop(address, None) is not None:
            await self.target.clear_breakpoint(address)
        return OK

    # -- the rest --

    async def _supported(self, rest: bytes) -> bytes:
        known = (b"hwbreak", b"swbreak")
        self._tells = frozenset(one for one in known if one + b"+" in rest.split(b";"))
        return _FEATURES

    async def _no_acknowledgement(self, _rest: bytes) -> bytes:
        self.acknowledges = False
        return OK

    async def _attached(self, _rest: bytes) -> bytes:
        return b"1"

    async def _description(self, rest: bytes) -> bytes:
        object_, operation, annex, place = rest.split(b":")
        if (object_, operation) != (b"features", b"read"):
            return UNKNOWN
        if annex != b"target.xml":
            return b"E00"
        offset, size = memory_range(place)
        document = target_xml()
        part = escaped_prefix(document[offset : offset + size], min(size, LONGEST - 1))
        return (b"m" if offset + len(part) < len(document) else b"l") + part

    async def _monitor(self, rest: bytes) -> Answer:
        line = bytes.fromhex(rest.decode("ascii")).decode("utf-8")
        text = (await self.target.monitor(line, self.vcpu)).encode("utf-8")
        parts = (text[at : at + _MONITOR_PART] for at in range(0, len(text), _MONITOR_PART))
        return Answer((*(b"O" + part.hex().encode("ascii") for part in parts), OK))


def told(error: PyvmmError) -> bytes:
    """An error in words, for GDB's user, as the answer to a request."""
    text = str(error).encode("ascii", "replace")
    return b"E." + text[: LONGEST // 2]


_NAMED: Final[dict[bytes, _Handler]] = {
    b"qSupported": Session._supported,
    b"QStartNoAckMode": Session._no_acknowledgement,
    b"qXfer": Session._description,
    b"qAttached": Session._attached,
    b"qC": Session._current,
    b"qfThreadInfo": Session._threads,
    b"qsThreadInfo": Session._no_more_threads,
    b"qThreadExtraInfo": Session._thread_info,
    b"qRcmd": Session._monitor,
    b"vCont?": Session._vcont_actions,
    b"vCont": Session._vcont,
    b"vKill": Session._kill_and_say,
}
_LETTERS: Final[dict[bytes, _Handler]] = {
    b"?": Session._stop_reason,
    b"c": Session._continue,
    b"C": Session._continue_with_signal,
    b"s": Session._step,
    b"S": Session._step_with_signal,
    b"D": Session._detach,
    b"k": Session._kill,
    b"H": Session._choose,
    b"T": Session._is_alive,
    b"g": Session._read_all,
    b"G": Session._write_all,
    b"p": Session._read_one,
    b"P": Session._write_one,
    b"m": Session._read_memory,
    b"x": Session._read_binary,
    b"M": Session._write_memory,
    b"X": Session._write_binary,
    b"Z": Session._insert,
    b"z": Session._remove,
}
