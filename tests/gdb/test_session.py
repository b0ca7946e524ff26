# SPDX-License-Identifier: MIT
"""Requests and their answers, over a machine that is made up."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostLacksError
from pyvmm.gdb.registers import REGISTERS, Values, full_tags
from pyvmm.gdb.registers_xml import target_xml
from pyvmm.gdb.session import MALFORMED, NOT_MAPPED, OK, UNKNOWN, Session
from pyvmm.gdb.target import Answer, Leave, Run, Stop
from pyvmm.hosts.registers import FpuRegs, FurtherRegs, Regs, Segment, Sregs

BASE, SIZE = 0x1000, 0x9000
EMPTY_FPU = FpuRegs((bytes(16),) * 8, 0x37F, 0, 0, (bytes(16),) * 16, 0x1F80)


@dataclass
class Fake:
    """Two vCPUs, and memory at [BASE, BASE + SIZE)."""

    vcpus: int = 2
    values: list[Values] = field(
        default_factory=lambda: [
            Values(Regs(rax=7 + vcpu), Sregs(fs=Segment(base=0x5000)), FurtherRegs(fpu=EMPTY_FPU))
            for vcpu in range(2)
        ]
    )
    memory: bytearray = field(default_factory=lambda: bytearray(SIZE))
    breakpoints: list[int] = field(default_factory=list)
    most: int = 4

    async def read(self, vcpu: int) -> Values:
        return self.values[vcpu]

    async def write(self, vcpu: int, values: Values) -> None:
        self.values[vcpu] = values

    async def read_memory(self, vcpu: int, address: int, size: int) -> bytes:
        at = address - BASE
        return bytes(self.memory[at : at + size]) if 0 <= at < SIZE else b""

    async def write_memory(self, vcpu: int, address: int, data: bytes) -> bool:
        at = address - BASE
        if not 0 <= at <= SIZE - len(data):
            return False
        self.memory[at : at + len(data)] = data
        return True

    async def set_breakpoint(self, address: int) -> None:
        if len(self.breakpoints) == self.most:
            raise HostLacksError("stop the guest", f"the host can have {self.most}")
        self.breakpoints.append(address)

    async def clear_breakpoint(self, address: int) -> None:
        self.breakpoints.remove(address)

    async def monitor(self, line: str, vcpu: int) -> str:
        return f"{vcpu} {line}\n"


def finish(coroutine: Coroutine[Any, Any, Answer | None]) -> Answer | None:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Answer | None = done.value
        return result
    raise AssertionError("it waits")


def ask(session: Session, request: bytes) -> Answer:
    answer = finish(session.handle(request))
    assert answer is not None
    return answer


def reply(session: Session, request: bytes) -> bytes:
    """The one packet that answers."""
    (packet,), then = ask(session, request)
    assert then is None
    return packet


def test_registers_are_read_and_written_one_by_one_and_at_once() -> None:
    target = Fake()
    session = Session(target)
    everything = reply(session, b"g")
    assert len(everything) == 2 * sum(one.size for one in REGISTERS)
    assert everything.startswith(b"0700000000000000")
    names = [one.name for one in REGISTERS]
    assert reply(session, b"p%x" % names.index("fs_base")) == b"0050000000000000"
    assert reply(session, b"P0=0807060504030201") == OK
    assert target.values[0].regs.rax == 0x0102030405060708
    assert reply(session, b"P%x=0010000000000000" % names.index("gs_base")) == OK
    assert target.values[0].sregs.gs.base == 0x1000
    assert reply(session, b"G" + everything) == OK
    assert target.values[0].regs.rax == 7
    assert target.values[0].sregs.gs.base == 0
    assert target.values[1].regs.rax == 8
    assert reply(session, b"P%x=01000000" % names.index("cs")) == b"E.cs cannot be written"
    assert reply(session, b"p%x" % names.index("fop")) == b"xxxxxxxx"
    for bad in (b"p", b"pff", b"P0", b"P0=12", b"G00", b"p-1"):
        assert reply(session, bad) == MALFORMED, bad


def test_the_description_has_every_register_at_its_number() -> None:
    document = ElementTree.fromstring(target_xml())
    described = [(one.get("name"), one.get("bitsize")) for one in document.iter("reg")]
    assert described == [(one.name, str(one.bits)) for one in REGISTERS]
    known = {one.get("id") for kind in ("flags", "union", "vector") for one in document.iter(kind)}
    builtin = {"int", "int32", "int64", "data_ptr", "code_ptr", "i387_ext"}
    assert {one.get("type") for one in document.iter("reg")} <= known | builtin
    session = Session(Fake())
    got, more = b"", b"m"
    while more == b"m":
        answer = reply(session, b"qXfer:features:read:target.xml:%x,100" % len(got))
        more, got = answer[:1], got + answer[1:]
    assert got == target_xml()
    assert reply(session, b"qXfer:features:read:other.xml:0,100") == b"E00"
    assert reply(session, b"qXfer:memory-map:read::0,100") == UNKNOWN


def test_tags_are_those_of_the_values() -> None:
    one = struct.pack("<QH6x", 1 << 63, 0x3FFF)
    infinite = struct.pack("<QH6x", 1 << 63, 0x7FFF)
    fpu = EMPTY_FPU._replace(
        fsw=6 << 11, ftw=0b11000001, fpr=(one, bytes(16), infinite, *[one] * 5)
    )
    # ST(0) is register 6, ST(1) register 7, ST(2) register 0.
    assert full_tags(fpu) == 0b01_00_11_11_11_11_11_10


def test_memory_is_read_as_far_as_it_goes_and_is_never_made_up() -> None:
    target = Fake()
    target.memory[:4] = b"\x01\x02}#"
    session = Session(target)
    assert reply(session, b"m1000,4") == b"01027d23"
    assert reply(session, b"x1000,4") == b"b\x01\x02}#"
    assert reply(session, b"m%x,10" % (BASE + SIZE - 2)) == b"0000"
    assert reply(session, b"m0,1") == NOT_MAPPED
    assert reply(session, b"x0,1") == NOT_MAPPED
    assert len(reply(session, b"m1000,ffffffff")) <= 0x4000
    assert reply(session, b"M1000,2:beef") == OK
    assert reply(session, b"X1002,1:}") == OK
    assert bytes(target.memory[:4]) == b"\xbe\xef}#"
    assert reply(session, b"X1002,0:") == OK
    assert reply(session, b"M%x,2:0102" % (BASE + SIZE - 1)) == NOT_MAPPED
    for bad in (b"m", b"m1000", b"mxyz,1", b"M1000,2:be", b"M1000,1:zz", b"m-1,4", b"m1,0x4"):
        assert reply(session, bad) == MALFORMED, bad


def test_breakpoints_are_the_machines_whatever_kind_gdb_wants() -> None:
    target = Fake()
    session = Session(target)
    reply(session, b"qSupported:swbreak+;hwbreak+")
    assert reply(session, b"Z1,1234,1") == OK
    assert reply(session, b"Z0,1234,1") == OK
    assert reply(session, b"Z0,5678,1") == OK
    assert target.breakpoints == [0x1234, 0x5678]
    assert session.stopped(Stop(1, 0x1234)) == b"T05thread:2;hwbreak:;"
    assert session.stopped(Stop(0, 0x5678)) == b"T05thread:1;swbreak:;"
    assert session.stopped(Stop(0, 0x5678, stepped=True)) == b"T05thread:1;"
    assert session.stopped(Stop()) == b"T02thread:1;"
    assert reply(session, b"z1,1234,1") == OK
    assert target.breakpoints == [0x1234, 0x5678]
    assert reply(session, b"z0,1234,1") == OK
    assert reply(session, b"z0,1234,1") == OK
    assert target.breakpoints == [0x5678]
    assert reply(session, b"Z2,1234,4") == UNKNOWN
    assert reply(session, b"Z1,1234") == MALFORMED
    finish(session.end())
    assert target.breakpoints == []


def test_a_host_without_breakpoints_says_so() -> None:
    session = Session(Fake(most=0))
    assert reply(session, b"Z1,1234,1").startswith(b"E.cannot stop the guest")


def test_reasons_are_told_to_who_knows_them() -> None:
    session = Session(Fake())
    assert session.stopped(Stop(0, 0x1234)) == b"T05thread:1;"


@pytest.mark.parametrize(
    ("request_", "run"),
    [
        (b"c", Run(frozenset({0, 1}))),
        (b"C05", Run(frozenset({0, 1}))),
        (b"s", Run(frozenset({0}), 0)),
        (b"vCont;c", Run(frozenset({0, 1}))),
        (b"vCont;s:1;c", Run(frozenset({0, 1}), 0)),
        (b"vCont;s:2", Run(frozenset({1}), 1)),
        (b"vCont;S05:2;c:1", Run(frozenset({0, 1}), 1)),
        (b"vCont;c:2", Run(frozenset({1}))),
        (b"vCont;s:-1", Run(frozenset({0}), 0)),
    ],
)
def test_what_is_to_run(request_: bytes, run: Run) -> None:
    assert ask(Session(Fake()), request_) == Answer((), run)


def test_threads_are_vcpus() -> None:
    target = Fake()
    target.values[1] = target.values[1]._replace(further=FurtherRegs(halted=True))
    session = Session(target)
    assert reply(session, b"?") == b"T05thread:1;"
    assert reply(session, b"qfThreadInfo") == b"m1,2"
    assert reply(session, b"qsThreadInfo") == b"l"
    assert reply(session, b"Hg2") == OK
    assert reply(session, b"qC") == b"QC2"
    assert reply(session, b"p0") == b"0800000000000000"
    assert bytes.fromhex(reply(session, b"qThreadExtraInfo,2").decode()) == b"vCPU 1 [halted]"
    assert reply(session, b"T2") == OK
    for bad in (b"T3", b"T0", b"Hg3", b"Hx1", b"qThreadExtraInfo,9", b"vCont;c:3", b"vCont;x"):
        assert reply(session, bad) == MALFORMED, bad


def test_leaving_and_the_monitor() -> None:
    session = Session(Fake())
    assert ask(session, b"D") == Answer((OK,), Leave.DETACH)
    assert ask(session, b"D;1") == Answer((OK,), Leave.DETACH)
    assert ask(session, b"k") == Answer((), Leave.KILL)
    assert ask(session, b"vKill;1") == Answer((OK,), Leave.KILL)
    assert ask(session, b"qRcmd," + b"info x".hex().encode()) == Answer(
        (b"O" + b"0 info x\n".hex().encode(), OK)
    )
    assert reply(session, b"QStartNoAckMode") == OK
    assert not session.acknowledges
    for unknown in (b"", b"vMustReplyEmpty", b"qTStatus", b"!", b"QFoo:1", b"vFile:open:0"):
        assert reply(session, unknown) == UNKNOWN, unknown
    for bad in (b"qRcmd,zz", b"qRcmd,ff", b"kill"):
        assert reply(session, bad) == MALFORMED, bad


PREFIXES = (
    b"", b"q", b"v", b"g", b"G", b"p", b"P", b"m", b"M", b"x", b"X", b"Z0,", b"z1,", b"H", b"T",
    b"vCont;", b"qXfer:features:read:", b"qThreadExtraInfo,", b"qRcmd,", b"s", b"C", b"Hg",
)  # fmt: skip


@given(
    st.sampled_from(PREFIXES),
    st.one_of(st.binary(max_size=40), st.text("0123fF,:;-=p.", max_size=20)),
)
def test_any_request_has_an_answer(prefix: bytes, rest: bytes | str) -> None:
    session = Session(Fake())
    answer = ask(session, prefix + (rest if isinstance(rest, bytes) else rest.encode()))
    assert answer.packets or answer.then is not None
    assert all(len(one) <= 0x4000 for one in answer.packets)
    assert ask(session, b"qC").packets[0].startswith(b"QC")
