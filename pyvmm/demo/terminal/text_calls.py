# SPDX-License-Identifier: MIT
"""System calls with their structures spelled out, and the guest's exits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pyvmm.demo.telling.outcomes import Outcome, name_of
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.hosts.call_record import Field, Made, SystemCall

_SHOWN_BYTES = 8
_FEW = 10
"""Calls, or exits, that are shown one by one where it is to be short."""


def calls(outcome: Outcome, width: int, *, brief: bool = False) -> Iterator[Line]:
    """Every call and exit in their order; `brief`: many calls are counted by their names.

    Those that were refused are always there.
    """
    if not outcome.calls:
        yield Line("no system call was made", Tone.FAINT)
    elif any(one.made is Made.MODEL for one in outcome.calls):
        yield from wrapped("KVM was not asked: the model answered for it", width)
    is_short = brief and len(outcome.calls) > _FEW
    if is_short:
        yield from _counted(outcome.calls, width)
    exits = 0
    for one in outcome.in_order:
        if isinstance(one, str):
            exits += 1
            if not brief or exits <= _FEW:
                yield from wrapped(f"EXIT of {one}", width, rest="    ")
        elif one.errno or not is_short:
            yield from _call(one, width)
            yield from _fields(one, width)
    if brief and exits > _FEW:
        yield from wrapped(f"... {exits - _FEW} more exits", width, Tone.FAINT)
    for what, count in outcome.left_out:
        yield from wrapped(f"not kept: {count} x {what}", width, Tone.FAINT, rest="    ")


def _counted(made: Sequence[SystemCall], width: int) -> Iterator[Line]:
    names = Counter(one.request or one.name for one in made)
    said = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in names.items())
    yield from wrapped(f"{len(made)} system calls (v calls shows each): {said}", width, rest="    ")


def _call(call: SystemCall, width: int) -> Iterator[Line]:
    name = call.request if call.name == "ioctl" else call.name
    words = [call.target]
    if call.name != "ioctl" and call.request:
        words.append(call.request)
    plain = [f"{one.name} {_value(one)}" for one in call.given] if not call.structure else []
    result = f"-1 {name_of(call.errno)}" if call.errno else _result(call)
    tone = Tone.REFUSED if call.errno else Tone.PLAIN
    yield from wrapped(
        f"{name}({', '.join((*words, *plain))}) = {result}   [{call.section}]",
        width,
        tone,
        rest="    ",
    )


def _fields(call: SystemCall, width: int) -> Iterator[Line]:
    """The structure that went in, and what the kernel made another there; zeroes are one line."""
    if call.structure:
        yield from wrapped(call.structure, width, first="  ", rest="    ")
        zeroes = [one.name for one in call.given if not any(one.raw)]
        for one in call.given:
            if any(one.raw):
                yield from wrapped(
                    f".{one.name} = {_value(one)}", width, first="    ", rest="      "
                )
        if zeroes:
            yield from wrapped(
                f".{', .'.join(zeroes)} = 0", width, Tone.FAINT, first="    ", rest="      "
            )
    went_in = {one.name: one.raw for one in call.given}
    for one in call.returned:
        if went_in.get(one.name) == one.raw:
            continue
        yield from wrapped(
            f"the kernel wrote: .{one.name} = {_value(one)}", width, first="    ", rest="      "
        )


def _result(call: SystemCall) -> str:
    return f"{call.result:#x}" if call.name == "mmap" else str(call.result)


def _value(one: Field) -> str:
    if one.value is None:
        return one.raw[:_SHOWN_BYTES].hex() + ("..." if len(one.raw) > _SHOWN_BYTES else "")
    said = f"{one.value:#x}" if one.value >= 10 else str(one.value)
    return f"{said} ({one.meaning})" if one.meaning else said
