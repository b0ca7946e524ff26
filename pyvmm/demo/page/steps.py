# SPDX-License-Identifier: MIT
"""A step in words as HTML: what is about to happen, the question, what came of it, what to try."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.demo.page.words import (
    answer_words,
    because_words,
    host_words,
    is_real,
    paragraph,
    said,
    table,
    verdict_words,
)
from pyvmm.demo.telling.acts import act_words
from pyvmm.demo.telling.chapter import Chapter, Question, Step
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Content, Observed, Outcome, Staged
from pyvmm.lifetime.properties import shortfall


def says_html(place: str, step: Step, tried: str, staged: Staged | None) -> str:
    """The place in the book, the step's words, and the host; `tried` is an act of the reader's."""
    parts = [f'<h2 class="place">{said(place)}</h2>']
    if tried:
        parts.append(f'<p class="says">You try: <code>{said(tried)}</code></p>')
    else:
        parts.append(paragraph(step.says, "says"))
    if staged is not None:
        kind = "host" if is_real(staged) else "host model"
        real = "" if is_real(staged) else " <b>Not the real thing:</b>"
        on = "On" if is_real(staged) else "this runs on"
        parts.append(f'<p class="{kind}">{real} {on} {said(host_words(staged))}.</p>')
    return "".join(parts)


def question_html(question: Question | None, moment: Moment | None = None) -> str:
    """The question with its answers; with a `moment` behind it, those are marked that it marked.

    Answers have their keys, so that a script can make them something to be chosen.
    """
    if question is None:
        return ""
    items = []
    for choice in question.choices:
        marks = []
        if moment is not None and moment.predicted == choice.key:
            marks.append("your prediction")
        if moment is not None and moment.came_true == choice.key:
            marks.append("came true")
        kind = ' class="true"' if "came true" in marks else ""
        mark = f" <b>({', '.join(marks)})</b>" if marks else ""
        items.append(f'<li{kind} data-key="{said(choice.key)}">{said(choice.words)}{mark}</li>')
    ask = "" if moment is not None else " data-ask"
    return f'<h3>{said(question.asks)}</h3><ol class="choices"{ask}>{"".join(items)}</ol>'


def outcome_html(moment: Moment) -> str:
    """The outcome of an act: the answer, its reason, the prediction beside it."""
    outcome = moment.outcome
    gave_away = any(one.content is Content.SECRET for one in outcome.seen)
    kind = "answer bad" if outcome.errno or gave_away else "answer good"
    parts = ["<h3>What came of it</h3>", paragraph(answer_words(outcome), kind)]
    why = outcome.explained
    if why is not None:
        source = f" <code>{said(why.source)}</code>" if why.source else ""
        rule = f", by the rule <code>{said(why.rule)}</code>" if why.rule else ""
        parts.append(f'<p class="why">Because {said(why.cause)}{rule}.{source}</p>')
    parts += _designs(outcome)
    parts += _digests(moment.before, outcome)
    verdict = verdict_words(moment)
    if verdict:
        right = moment.predicted is not None and moment.predicted == moment.came_true
        parts.append(paragraph(verdict, "verdict right" if right else "verdict"))
    because = because_words(moment)
    if because:
        parts.append(paragraph(because, "because"))
    if moment.step.after and not moment.was_tried:
        parts.append(paragraph(moment.step.after, "after"))
    return "".join(parts)


def _designs(outcome: Outcome) -> Iterator[str]:
    if outcome.answers:
        rows = [
            (
                said(one.design),
                said(one.answer or "cannot be asked in this design"),
                "; ".join(map(_property, one.violated)) or "-",
            )
            for one in outcome.answers
        ]
        columns = ("design", "answer", "what does not hold")
        answers = table(columns, rows, "What each design answers")
        yield f'<div class="wide">{answers}</div>'


def _property(name: str) -> str:
    """A property that does not hold, and what it says."""
    short = shortfall(name)
    marked = ' class="bad"' if short.is_fault else ""
    sentence = f": {said(short.sentence)}" if short.sentence else ""
    return f"{short.verb} <b{marked}>{said(name)}</b>{sentence}".lstrip()


def _digests(before: Observed, outcome: Outcome) -> Iterator[str]:
    after = outcome.after
    if outcome.same_digest is not None:
        same = "the same as that of" if outcome.same_digest else "another one than that of"
        yield paragraph(f"The digest is {same} the launch before.")
    if (after.measured, after.reported) != (before.measured, before.reported):
        for name, digest in (
            ("By the monitor's own reckoning", after.measured),
            ("Reported by the firmware", after.reported),
        ):
            if digest:
                yield f'<p class="digest">{name}: <code>{digest.hex()}</code></p>'
        if after.measured and after.reported and after.measured != after.reported:
            yield paragraph("The two digests differ.", "bad")
    if after.ended is not None and before.ended is None:
        yield paragraph(f"The guest has ended with status {after.ended}.")


def exercise_html(chapter: Chapter) -> str:
    """The command of a chapter's exercise, "" where there is none."""
    if not chapter.exercise:
        return ""
    return (
        f"<p>Its exercise, in a terminal: <code>pyvmm demo --exercise {chapter.exercise}</code></p>"
    )


def tries_html(step: Step) -> str:
    """Acts that are offered for trying, in the words that a reader may type, too."""
    if not step.tries:
        return ""
    items = "".join(
        f'<li data-act="{said(act_words(one))}"><code>{said(act_words(one))}</code></li>'
        for one in step.tries
    )
    return f'<h3>Try it</h3><ul class="tries">{items}</ul>'


def sentence(moment: Moment) -> str:
    """One sentence for who cannot see what has changed: the answer, and what was predicted."""
    verdict = verdict_words(moment)
    return " ".join(filter(None, (answer_words(moment.outcome), verdict)))
