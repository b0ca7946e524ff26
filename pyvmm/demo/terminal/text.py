# SPDX-License-Identifier: MIT
"""Steps and their outcomes as lines of plain ASCII text, at most `width` columns wide."""

from __future__ import annotations

import errno
import textwrap
from collections.abc import Iterator

from pyvmm.demo.telling.acts import act_words
from pyvmm.demo.telling.chapter import Chapter, Step
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.demo.telling.player import Moment, View
from pyvmm.hosts.call_record import Field, Made, SystemCall
from pyvmm.memory.page_map import page_map

_SHOWN_BYTES = 8


def heading(view: View, width: int) -> Iterator[str]:
    """Chapter, step and host."""
    where = f"{view.chapter.title}, step {view.number} of {len(view.chapter.steps)}"
    if view.staged is not None:
        where += f" - on {_host(view.staged)}"
    yield from _wrapped(where, width)
    yield "-" * min(width, len(where))


def _host(staged: Staged) -> str:
    match staged.host:
        case StageHost.MODEL:
            name = "the model"
        case StageHost.LAB:
            name = f"the lab, Linux {staged.kernel}"
        case StageHost.KVM:
            name = f"this machine's KVM, Linux {staged.kernel}"
    return f"{name} ({staged.why})" if staged.why else name


def asking(step: Step, width: int) -> Iterator[str]:
    """A step before it is carried out: what is about to happen, and the question."""
    yield from _wrapped(step.says, width)
    if step.question is not None:
        yield ""
        yield from _wrapped(step.question.asks, width)
        for number, choice in enumerate(step.question.choices, 1):
            yield from _wrapped(f"{number}  {choice.words}", width, "  ", "     ")


def showing(moment: Moment, width: int) -> Iterator[str]:
    """The outcome: calls, answer, what was predicted, the memory with its change."""
    outcome = moment.outcome
    if moment.was_tried:
        yield from _wrapped(f"tried: {act_words(moment.act)}", width)
    if not outcome.calls:
        yield "no system call"
    for call in outcome.calls:
        yield from _call(call, width)
    for one in outcome.exits:
        yield from _wrapped(f"exit of {one}", width)
    yield ""
    yield from _wrapped(_answer(outcome), width)
    yield from _explained(outcome, width)
    yield from _predicted(moment, width)
    if not moment.was_tried and moment.step.after:
        yield from _wrapped(moment.step.after, width)
    yield ""
    yield from _memory(moment.before, outcome.after, width)


def closing(chapter: Chapter, width: int) -> Iterator[str]:
    """The end of a chapter."""
    yield from _wrapped(f"End of the chapter. {chapter.aim}", width)


def _answer(outcome: Outcome) -> str:
    if outcome.errno:
        return f"refused: {outcome.errno_name}"
    return "it worked" if outcome.value is None else f"the byte is {outcome.value:#04x}"


def _explained(outcome: Outcome, width: int) -> Iterator[str]:
    why = outcome.explained
    if why is not None:
        source = f" ({why.source})" if why.source else ""
        yield from _wrapped(f"because {why.cause}{source}" if why.rule else why.cause, width)


def _predicted(moment: Moment, width: int) -> Iterator[str]:
    question = moment.step.question
    if question is None or moment.was_tried:
        return
    by_key = {one.key: one for one in question.choices}
    if moment.came_true is None:
        yield from _wrapped("none of the answers came true on this host", width)
        return
    true = by_key[moment.came_true]
    if moment.predicted is None:
        said = f"the answer: {true.words}"
    elif moment.predicted == moment.came_true:
        said = f"as you predicted: {true.words}"
    else:
        said = f"you predicted: {by_key[moment.predicted].words}; it was: {true.words}"
    yield from _wrapped(f"{said}. {true.because}".rstrip(), width)


def _call(call: SystemCall, width: int) -> Iterator[str]:
    maker = "would ask " if call.made is Made.MODEL else ""
    name = call.request if call.name == "ioctl" else call.name
    words = [call.target]
    if call.name != "ioctl" and call.request:
        words.append(call.request)
    plain = [_field(one) for one in call.given] if not call.structure else []
    result = f"-1 {errno.errorcode.get(call.errno, call.errno)}" if call.errno else _result(call)
    yield from _wrapped(
        f"{maker}{name}({', '.join((*words, *plain))}) = {result}   [{call.section}]",
        width,
        "",
        "    ",
    )
    if call.structure:
        yield f"  {call.structure}"
        for one in call.given:
            if any(one.raw):
                yield from _wrapped(f".{one.name} = {_value(one)}", width, "    ", "      ")


def _result(call: SystemCall) -> str:
    return f"{call.result:#x}" if call.name == "mmap" else str(call.result)


def _field(one: Field) -> str:
    return f"{one.name} {_value(one)}"


def _value(one: Field) -> str:
    if one.value is None:
        return one.raw[:_SHOWN_BYTES].hex() + ("..." if len(one.raw) > _SHOWN_BYTES else "")
    said = f"{one.value:#x}" if one.value >= 10 else str(one.value)
    return f"{said} ({one.meaning})" if one.meaning else said


def _memory(before: Observed, after: Observed, width: int) -> Iterator[str]:
    vms = sorted({number for number, _ in after.memory})
    if not vms:
        yield "guest memory: none" if after.held else "nothing is there"
    for vm in vms:
        runs = [run for number, run in after.memory if number == vm]
        mark = (
            "" if runs == [run for number, run in before.memory if number == vm] else "  * changed"
        )
        yield f"guest memory of VM {vm}{mark}"
        for line in page_map(runs):
            yield f"  {line}"[:width]
    if after.held != before.held:
        was, now = set(before.held), set(after.held)
        told = [f"+ {name}" for name in sorted(now - was)] + [
            f"- {name}" for name in sorted(was - now)
        ]
        yield from _wrapped(
            f"the process holds: {', '.join(sorted(now)) or 'nothing'} ({', '.join(told)})", width
        )


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, max(20, width), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
