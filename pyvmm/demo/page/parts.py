# SPDX-License-Identifier: MIT
"""A reader's view as parts of a page: HTML and SVG by the part's name."""

from __future__ import annotations

from pyvmm.demo.page.attacker import attacker_html, console_html
from pyvmm.demo.page.calls import calls_html
from pyvmm.demo.page.page_map import pages_html
from pyvmm.demo.page.pins import graph_html, graphs_of
from pyvmm.demo.page.steps import (
    exercise_html,
    outcome_html,
    question_html,
    says_html,
    sentence,
    tries_html,
)
from pyvmm.demo.page.words import said
from pyvmm.demo.telling.acts import act_words
from pyvmm.demo.telling.chapter import Chapter, Step
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.player import Phase, View
from pyvmm.lifetime.graph import Graph

PARTS = {
    "says": "The step",
    "question": "The question",
    "outcome": "The outcome",
    "calls": "System calls",
    "tries": "Something to try",
    "pages": "Guest memory",
    "graph": "Who keeps what alive",
    "attacker": "The attacker's view",
    "console": "The guest's console",
    "timeline": "Moments of this chapter",
    "status": "The news in a sentence",
}
"""Names of all parts, and what a section of each is called."""
TOLD = ("says", "question", "outcome", "calls", "tries")
SHOWN = ("attacker", "console", "pages", "graph")
"""Parts in words, and pictures: two columns where there is room."""


def view_html(view: View) -> dict[str, str]:
    """Everything that a reader sees now: HTML for each of `PARTS`, "" for a part that is empty."""
    moment = view.moment
    if moment is not None:
        parts = moment_html(view.chapter, moment, "now", _among(view))
    else:
        parts = _asking(view)
    if view.notice:
        parts["says"] += f'<p class="notice">{said(view.notice)}</p>'
    parts["timeline"] = _timeline(view)
    parts["status"] = said(_status(view))
    if view.phase in {Phase.ASKING, Phase.SHOWING, Phase.ENDED}:
        parts["tries"] = tries_html(view.step)
    if view.phase is Phase.ENDED:
        parts["says"] += f'<p class="aim">End of the chapter. {said(view.chapter.aim)}</p>'
        parts["says"] += exercise_html(view.chapter)
        if view.following is not None:
            title = said(view.following.title)
            parts["says"] += f"<p>Next, by <kbd>n</kbd>: the chapter <b>{title}</b>.</p>"
    return {name: parts.get(name, "") for name in PARTS}


def moment_html(
    chapter: Chapter, moment: Moment, ids: str, among: tuple[Graph, ...] = (), *, asks: bool = False
) -> dict[str, str]:
    """A kept moment: `ids` begins its ids; `asks`: the question is as before the outcome."""
    outcome, before = moment.outcome, moment.before
    tried = act_words(moment.act) if moment.was_tried else ""
    return {
        "says": says_html(place_words(chapter, moment.step), moment.step, tried, moment.staged),
        "question": question_html(moment.question, None if asks else moment),
        "outcome": outcome_html(moment),
        "calls": calls_html(outcome),
        "pages": pages_html(outcome.after, before, f"{ids}-pages"),
        "graph": graph_html(outcome.after, before, f"{ids}-graph", among),
        "attacker": attacker_html(outcome),
        "console": console_html(outcome),
        "status": said(sentence(moment)),
    }


def place_words(chapter: Chapter, step: Step) -> str:
    """``A VM and its memslots, step 2 of 7``."""
    number = [one.id for one in chapter.steps].index(step.id) + 1
    return f"{chapter.title}, step {number} of {len(chapter.steps)}"


def _asking(view: View) -> dict[str, str]:
    """A step that has not been carried out: the pictures are those of the moment before."""
    parts = {
        "says": says_html(place_words(view.chapter, view.step), view.step, "", view.staged),
        "question": question_html(view.step.question) if view.phase is Phase.ASKING else "",
    }
    parts["pages"] = pages_html(view.observed, None, "now-pages")
    parts["graph"] = graph_html(view.observed, None, "now-graph", _among(view))
    return parts


def _among(view: View) -> tuple[Graph, ...]:
    """Graphs of everything that has been seen: so nothing moves when one goes back and forth."""
    return tuple(g for one in view.moments for g in graphs_of(one.outcome.after, one.before))


def _status(view: View) -> str:
    if view.notice:
        return view.notice
    match view.phase:
        case Phase.OPENING:
            return "A stage is being opened."
        case Phase.DOING:
            return "It is being done."
        case Phase.LOST:
            return "The stage was lost; a restart opens another."
        case Phase.ENDED:
            return f"End of the chapter. {view.chapter.aim}"
        case Phase.SHOWING if view.moment is not None:
            return sentence(view.moment)
    asks = view.step.question
    return f"{view.step.says} {asks.asks if asks else ''}".rstrip()


def _timeline(view: View) -> str:
    """A list of all steps and attempts: those that have been seen can be gone back to."""
    items = []
    for number, moment in enumerate(view.moments):
        words = f"tried {act_words(moment.act)}" if moment.was_tried else moment.step.id
        now = ' aria-current="step"' if moment is view.moment else ""
        items.append(f'<li data-moment="{number}"{now}>{said(words)}</li>')
    done = {one.step.id for one in view.moments if not one.was_tried}
    for step in view.chapter.steps:
        if step.id not in done:
            is_here = view.moment is None and step is view.step
            now = ' aria-current="step"' if is_here else ""
            items.append(f'<li class="coming"{now}>{said(step.id)}</li>')
    return f'<ol class="timeline">{"".join(items)}</ol>'
