# SPDX-License-Identifier: MIT
"""Screens as values: a step composed for so many columns and rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyvmm.demo.telling.acts import Look
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Observed, Staged, StageHost
from pyvmm.demo.telling.player import Phase, View
from pyvmm.demo.terminal import text
from pyvmm.demo.terminal.lines import EMPTY, Line, Tone, wrapped
from pyvmm.demo.terminal.parts import Part, Shown, parts, pictures

_LEAST_ROOM = 1
_LAUNCH = 10
"""Lines more than two screens that calls may have to be shown first."""


@dataclass(frozen=True, slots=True)
class Page:
    """Content of a screen, on however many rows.

    `keys` are said at the bottom, or `prompt`, behind which is typed.
    `parts` can be chosen from, where not all are there; `part` is.
    """

    heading: str
    body: list[Line]
    keys: tuple[str, ...] = ()
    prompt: str = ""
    parts: tuple[Part, ...] = ()
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of one screen, the cursor behind the last one.

    `first` is the first line of the body that is shown, of `total`; `room` the rows that it has.
    """

    lines: tuple[Line, ...]
    first: int
    room: int
    total: int


def framed(page: Page, scroll: int, notice: str, width: int, height: int) -> Frame:
    """Cut a page to a screen: at most `height` rows of at most `width` columns."""
    said = wrapped(notice, width, Tone.NOTICE)[: max(0, height - 3)] if notice else []
    room = max(_LEAST_ROOM, height - 2 - len(said))
    first = max(0, min(scroll, len(page.body) - room))
    body = page.body[first : first + room]
    last = first + len(body)
    more = f"Space more {last}/{len(page.body)}" if len(body) < len(page.body) else ""
    bottom = page.prompt[-(width - 1) :] if page.prompt else _fitting(more, page.keys, width)
    rows = [
        Line(page.heading, Tone.HEAD),
        *body,
        *(EMPTY for _ in range(room - len(body))),
        *said,
        Line(bottom, Tone.PLAIN if page.prompt else Tone.FAINT),
    ]
    cut = (replace(line, text=line.text[:width]) for line in rows[-height:])
    return Frame(tuple(cut), first, room, len(page.body))


def _fitting(more: str, keys: Sequence[str], width: int) -> str:
    """As many keys as fit into a line: the last two, help and the way out, before all others."""
    first, last = [more] * bool(more), list(keys[-2:])
    for key in keys[:-2]:
        if len("  ".join((*first, key, *last))) < width:
            first.append(key)
    return "  ".join((*first, *last))[: width - 1]


def page_of(view: View, part: Part | None, width: int, height: int) -> Page:
    """The step as it stands; where not all of its parts fit `part`, else the first that changed."""
    room = height - 2
    heading = text.heading(view)
    match view.phase:
        case Phase.OPENING:
            return Page(heading, [*text.saying(view.step, width), EMPTY, _waiting(view)])
        case Phase.DOING:
            return Page(heading, [*text.saying(view.step, width), EMPTY, _waiting(view)])
        case Phase.LOST:
            lost = wrapped("The stage was lost.", width, Tone.REFUSED)
            return Page(heading, lost, ("Enter begin again", "? help", "q quit"))
        case Phase.ENDED:
            ending = [*text.closing(view, width), *text.score(view.moments, width)]
            onward = "Enter next chapter" if view.following else "Enter end"
            keys = (onward, "b back", "t try", "r restart", "j jump", "? help", "q quit")
            return Page(heading, ending, keys)
    if view.phase is Phase.SHOWING and view.moment is not None:
        return _showing(view, view.moment, part, width, room)
    return _asking(view, part, width, room)


def _waiting(view: View) -> Line:
    if view.phase is Phase.OPENING:
        return Line("A stage is being opened ...", Tone.NOTICE)
    return Line("It is being carried out ...", Tone.NOTICE)


def _is_to_be_said(view: View, staged: Staged) -> bool:
    """Tell whether the reason of a stage is: where nothing real answers always, else once."""
    return staged.host in {StageHost.MODEL, StageHost.MACHINE} or view.number == 1


def _asking(view: View, part: Part | None, width: int, room: int) -> Page:
    top = [*text.saying(view.step, width)]
    if view.staged is not None and _is_to_be_said(view, view.staged):
        top = [*text.not_real(view.staged, width), *top]
    enter = "Enter go on" if isinstance(view.step.act, Look) else "Enter do it"
    if view.step.question is not None:
        top += [EMPTY, *text.asking(view.step.question, width)]
        enter = f"1-{len(view.step.question.choices)} predict  Enter see"
    now = view.observed
    shown = tuple(pictures(now, now, width, legend=False)) if now != Observed() else ()
    keys = (enter, "b back", "t try", "v view", "j jump", "? help", "q quit")
    return _page(text.heading(view), top, shown, keys, part=part, room=room)


def _showing(view: View, moment: Moment, part: Part | None, width: int, room: int) -> Page:
    top = list(text.answer(moment, width))
    if _is_to_be_said(view, moment.staged):
        top = [*text.not_real(moment.staged, width), *top]
    shown = parts(moment, width, legend=False)
    if part is None and moment.outcome.after.scenes:
        # References alone are told there: how they changed goes before the calls that did it.
        part = next((one.part for one in shown if one.part is Part.PINS and one.changed), None)
    keys = ("Enter next", "b back", "t try", "v view", "r restart", "j jump", "? help", "q quit")
    says = [] if moment.was_tried else [*text.saying(moment.step, width), EMPTY]
    whole = len(says) + len(top) + sum(len(one.lines) + 1 for one in shown)
    return _page(
        text.heading(view),
        [*says, *top] if whole <= room else top,
        shown,
        keys,
        part=part,
        room=room,
    )


def _page(
    heading: str,
    top: list[Line],
    shown: Sequence[Shown],
    keys: tuple[str, ...],
    *,
    part: Part | None,
    room: int,
) -> Page:
    """All parts below `top` where they fit; else their names, one of them, and what fits besides.

    What has changed goes before what has not.
    """
    if not shown or len(top) + sum(len(one.lines) + 1 for one in shown) <= room:
        body = list(top)
        for one in shown:
            body += [EMPTY, *one.lines]
        return Page(heading, body, tuple(one for one in keys if one != "v view"))
    kinds = tuple(one.part for one in shown)
    if part not in kinds:
        changed = [one for one in shown if one.changed] or list(shown)
        # The record of a launch is many screens long: what came of it says more.
        short = (one for one in changed if len(top) + len(one.lines) <= 2 * room + _LAUNCH)
        part = next(short, changed[0]).part
    at = kinds.index(part)
    after = sorted((*shown[at + 1 :], *shown[:at]), key=lambda one: not one.changed)
    body, there = list(shown[at].lines), {part}
    for one in after:
        if len(top) + 1 + len(body) + 1 + len(one.lines) <= room:
            body += [EMPTY, *one.lines]
            there.add(one.part)
    names = "  ".join(
        f"[{one.part.value}]" if one.part in there else one.part.value + "*" * one.changed
        for one in shown
    )
    tabs = Line(f"-- {names}  (v: the next)", Tone.FAINT)
    return Page(heading, [*top, tabs, *body], keys, parts=kinds, part=part)
