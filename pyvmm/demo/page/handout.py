# SPDX-License-Identifier: MIT
"""A run as one file: every moment in order, and a stepper for whoever lets scripts run.

The file asks nobody for anything, and its own policy forbids it to.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pyvmm.demo.page.parts import SHOWN, TOLD, moment_html
from pyvmm.demo.page.pins import graphs_of
from pyvmm.demo.page.shell import bar, glossary, head, sections, top
from pyvmm.demo.page.steps import exercise_html, sentence
from pyvmm.demo.page.words import host_words, said
from pyvmm.demo.telling.acts import act_words
from pyvmm.demo.telling.chapter import Chapter
from pyvmm.demo.telling.moments import Moment
from pyvmm.visible import visible


@dataclass(frozen=True, slots=True)
class ToldChapter:
    """A chapter as it was played; `ended` says why before its last step, "" for to the end."""

    chapter: Chapter
    moments: tuple[Moment, ...]
    ended: str = ""


def handout_html(
    told: Sequence[ToldChapter],
    *,
    script: str,
    style: str,
    terms: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole file. `script` and `style` are those of the page, to be written into it.

    `terms` are those of the glossary, with their meanings.
    """
    moments = [
        (one.chapter, moment, _name(one, number))
        for one in told
        for number, moment in enumerate(one.moments)
    ]
    run = {"moments": [_indexed(*each) for each in moments]}
    inert = json.dumps(run, separators=(",", ":")).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = told[0].chapter.title if len(told) == 1 else "Private guest memory, step by step"
    number = 0
    parts = [
        head(
            title,
            f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style>',
        ),
        "<body>",
        top(),
        f"<main>{_about(told)}",
    ]
    for one in told:
        parts += _chapter(one, number)
        number += len(one.moments)
    parts += [
        glossary(terms),
        "</main>",
        bar([one.chapter for one in told if one.moments], "", ""),
        f'<script type="application/json" id="run">{inert}</script>',
        f"<script>{script}</script></body></html>\n",
    ]
    return "".join(parts)


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _about(told: Sequence[ToldChapter]) -> str:
    hosts = dict.fromkeys(host_words(moment.staged) for one in told for moment in one.moments)
    words = " and ".join(map(said, hosts))
    return (
        '<p class="about">A run of <code>pyvmm demo</code>, as it was: nothing here was written '
        f"beforehand but the words around it. It ran on {words or 'nothing'}.</p>"
    )


def _name(told: ToldChapter, number: int) -> str:
    """The id of a moment: that of its step, with a number behind it for what was tried there."""
    moment = told.moments[number]
    name = f"{told.chapter.id}/{moment.step.id}"
    return f"{name}/{number}" if moment.was_tried else name


def _indexed(chapter: Chapter, moment: Moment, name: str) -> dict[str, str]:
    question = moment.question
    asks = f"{moment.step.says} {question.asks}" if question is not None else moment.step.says
    return {
        "id": name,
        "chapter": chapter.id,
        "said": visible(f"{moment.step.says} {sentence(moment)}"),
        "asks": visible(asks),
    }


def _chapter(told: ToldChapter, first: int) -> Iterator[str]:
    chapter = told.chapter
    yield (
        f'<header class="chapter"><h2>{said(chapter.title)}</h2>'
        f'<p class="aim">{said(chapter.aim)}</p></header>'
    )
    items = []
    for number, moment in enumerate(told.moments):
        words = f"tried {act_words(moment.act)}" if moment.was_tried else moment.step.id
        link = f'<a href="#{said(_name(told, number))}">{said(words)}</a>'
        items.append(f'<li data-moment="{first + number}">{link}</li>')
    listed = "".join(items)
    yield f'<nav aria-label="{said(chapter.title)}"><ol class="timeline">{listed}</ol></nav>'
    among = tuple(g for one in told.moments for g in graphs_of(one.outcome.after, one.before))
    yield '<div class="moments">'
    for number, moment in enumerate(told.moments):
        parts = moment_html(chapter, moment, f"m{first + number}", among, asks=True)
        is_last = moment.step is chapter.steps[-1] and not moment.was_tried
        closing = f'<div class="closing">{exercise_html(chapter)}</div>' if is_last else ""
        true = f' data-true="{said(moment.came_true)}"' if moment.came_true else ""
        yield (
            f'<article class="moment" id="{said(_name(told, number))}"{true}>'
            f'<div class="told">{sections(parts, TOLD)}{closing}</div>'
            f'<div class="shown"><h2 class="before-words">Before this step</h2>'
            f"{sections(parts, SHOWN)}</div></article>"
        )
    yield "</div>"
    if told.ended:
        yield f'<p class="notice">The chapter was not told to its end: {said(told.ended)}</p>'
