# SPDX-License-Identifier: MIT
"""Text as HTML, and the words that several parts of the page say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Outcome, Staged, StageHost
from pyvmm.visible import visible


def said(text: str) -> str:
    """Text of any origin as HTML: what cannot be shown is written out, and nothing is markup."""
    return escape(visible(text))


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text of any origin; `kind` is its class."""
    return f"<p{_class(kind)}>{said(text)}</p>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str, kind: str = ""
) -> str:
    """A table of cells that are HTML already; `columns` and `caption` are text.

    The first cell of a row names it. Each cell has its column's name, for narrow screens; in a
    table of a `kind` the style has the names.
    """
    head = "".join(f'<th scope="col">{said(one)}</th>' for one in columns)
    lines = []
    for first, *rest in rows:
        cells = "".join(
            f"<td>{cell}</td>" if kind else f'<td data-label="{said(column)}">{cell}</td>'
            for column, cell in zip(columns[1:], rest, strict=True)
        )
        lines.append(f"<tr><th scope=row>{first}</th>{cells}</tr>")
    return (
        f"<table{_class(kind)}><caption>{said(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def host_words(staged: Staged) -> str:
    """The host of a stage, and why it is that one."""
    match staged.host:
        case StageHost.MODEL:
            name = "the model, which is no kernel"
        case StageHost.MACHINE:
            name = "the model of lifetimes, which is no kernel"
        case StageHost.LAB:
            name = f"the lab's KVM, Linux {staged.kernel}"
        case StageHost.KVM:
            name = f"this machine's KVM, Linux {staged.kernel}"
    return f"{name}: {staged.why}" if staged.why else name


def is_real(staged: Staged) -> bool:
    """True where a kernel answers."""
    return staged.host in {StageHost.KVM, StageHost.LAB}


def answer_words(outcome: Outcome) -> str:
    """The answer to an act."""
    if outcome.errno:
        return f"It was refused: {outcome.errno_name}."
    if outcome.seen:
        return f"The attacker gets {', '.join(one.words for one in outcome.seen)}."
    if not outcome.was_attempted:
        return "It was not attempted."
    if outcome.value is not None:
        return f"The byte is {outcome.value:#04x}."
    return "It worked."


def verdict_words(moment: Moment) -> str:
    """Prediction and outcome beside each other; "" where nothing was asked."""
    if moment.question is None:
        return ""
    true, predicted = moment.true_choice, moment.predicted_choice
    if true is None:
        return "None of the answers came true on this host."
    if predicted is None:
        return f"The answer: {true.words}."
    if predicted == true:
        return f"As you predicted: {true.words}."
    return f"You predicted: {predicted.words}. It was: {true.words}."


def because_words(moment: Moment) -> str:
    """The sentence that belongs to the answer that came true; "" for none."""
    true = moment.true_choice
    return "" if true is None else true.because
