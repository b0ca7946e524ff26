# SPDX-License-Identifier: MIT
"""Registers, and the record of exits: both stay open where memory is only software-protected."""

from __future__ import annotations

from dataclasses import fields

from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.stage.mailbox import pattern_at
from pyvmm.demo.stage.secret import SIZE
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Seen

_SHOWN = 3


async def by_registers(target: Target, gpa: int) -> Seen:
    """The registers of vCPU 0, which stands still."""
    regs = await target.inside.machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
    values = {one.name: int(getattr(regs, one.name)) for one in fields(regs)}
    secret = target.secret
    words: set[int] = set()
    if secret is not None:
        words = {pattern_at(at, secret.seed) for at in range(secret.gpa, secret.gpa + SIZE, 8)}
    hits = [name for name, value in values.items() if value in words]
    shown = ", ".join(f"{name} {values[name]:#x}" for name in ("rip", "rsp", "rax"))
    note = f"{shown}: this type of VM hides no register"
    if hits:
        return Seen(Road.REGISTERS, gpa, Content.SECRET, note=f"{note}; {hits[0]} has a word of it")
    return Seen(Road.REGISTERS, gpa, Content.OTHER, note=note)


async def by_exits(target: Target, gpa: int) -> Seen:
    """The guest's exits so far: when, why, and with which operands it left."""
    if not target.exits:
        return closed(Road.EXITS, gpa, "the guest has left to nobody yet")
    last = "; ".join(target.exits[-_SHOWN:])
    note = f"{len(target.exits)} exits, the last: {last}"
    return Seen(Road.EXITS, gpa, Content.OTHER, note=note)
