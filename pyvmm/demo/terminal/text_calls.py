# SPDX-License-Identifier: MIT
"""System calls with their structures spelled out, and the guest's exits."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.demo.telling.outcomes import Outcome, name_of
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.hosts.call_record import Field, Made, SystemCall

_SHOWN_BYTES = 8


def calls(outcome: Outcome, width: int, *, brief: bool = False) -> Iterator[Line]:
    """Every call with its answer, and exits between; `brief`: fields only of what was refused."""
    if not outcome.calls:
        yield Line("no system call was made", Tone.FAINT)
    elif any(one.made is Made.MODEL for one in outcome.calls):
        yield from wrapped("KVM was not asked: the model answered for it", width)
    for one in outcome.in_order:
        if isinstance(one, str):
            yield from wrapped(f"EXIT of {one}", width, rest="    ")
            continue
        yield from _call(one, width)
        if not brief or one.errno:
            yield from _fields(one, width)
    for what, count in outcome.left_out:
        yield from wrapped(f"not shown: {count} x {what}", width, Tone.FAINT, rest="    ")


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
