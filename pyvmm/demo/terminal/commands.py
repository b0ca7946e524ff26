# SPDX-License-Identifier: MIT
"""Commands of a reader: what a typed line, or a key, asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.demo.telling.acts import Act, parse_act
from pyvmm.demo.telling.chapter import Book, Question, Step
from pyvmm.demo.telling.links import parse_link
from pyvmm.demo.telling.player import Jump, Move, Phase, Plain, Predict, View
from pyvmm.demo.terminal.parts import Part
from pyvmm.errors import UsageError

_ATTEMPT = "take this line"


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the demo."""


@dataclass(frozen=True, slots=True)
class Help:
    """Say which commands there are."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Explain the terms that begin with `word`; "" for all."""

    word: str = ""


@dataclass(frozen=True, slots=True)
class ShowPart:
    """Show one part in full; None: the one behind what is shown now."""

    part: Part | None = None


@dataclass(frozen=True, slots=True)
class ChooseChapter:
    """Show the chapters, and ask for one."""


@dataclass(frozen=True, slots=True)
class ChooseAct:
    """Show what may be tried here, and ask for something."""


@dataclass(frozen=True, slots=True)
class PredictAct:
    """Ask what will come of an act, then try it."""

    act: Act


Command: TypeAlias = Move | Quit | Help | Terms | ShowPart | ChooseChapter | ChooseAct | PredictAct

HELP = (
    ("Enter, n", "carry the step out, or go on to the next"),
    ("1-9", "predict an answer, then carry the step out"),
    ("s", "carry the step out without a prediction"),
    ("b", "back to what was shown before"),
    ("r", "restart the chapter"),
    ("j", "jump: list the chapters; `j NAME`, `j NAME/STEP`"),
    ("t", "try something of your own: `t`, `t 1`, `t read host 0 0x1000`"),
    ("v", "show calls, attacker, console, pages or pins: `v pages`"),
    ("g", "glossary: `g`, `g memslot`"),
    ("?", "this help"),
    ("q", "quit"),
)
"""Commands as they are typed in lines. As single keys all but those in `...` are the same."""


def parse_line(line: str, view: View, book: Book) -> Command:
    """The command that a line is. Raises `UsageError` for what is none."""
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match word:
        case "j" | "t" | "v" | "g":
            return _with_argument(word, rest, view, book)
        case "" | "n":
            return onward(view)
        case "b":
            return Plain.BACK
        case "r":
            return Plain.RESTART
        case "s":
            return Plain.SKIP
        case "?" | "h" | "help":
            return Help()
        case "q" | "quit":
            return Quit()
    if is_number(word):
        question = view.step.question if view.phase is Phase.ASKING else None
        if question is None:
            raise UsageError(_ATTEMPT, "there is nothing to be predicted now")
        return Predict(choice_of(word, question))
    raise UsageError(_ATTEMPT, f"{word[:40]!r} means nothing here", "? says what does")


def _with_argument(word: str, rest: str, view: View, book: Book) -> Command:
    match word:
        case "t":
            return PredictAct(act_of(rest, view.step)) if rest else ChooseAct()
        case "j":
            return jump_to(rest, book) if rest else ChooseChapter()
        case "v":
            return ShowPart(_part(rest) if rest else None)
    return Terms(rest)


def onward(view: View) -> Command:
    """Meaning of Enter: the next step; behind a chapter's last one the next chapter, or the end."""
    if view.phase is Phase.LOST:
        return Plain.RESTART
    return Quit() if view.phase is Phase.ENDED and view.following is None else Plain.NEXT


def jump_to(words: str, book: Book) -> Jump:
    """A jump to a chapter by its number or name, or to a step. Raises `UsageError` for neither."""
    if is_number(words) and 1 <= int(words) <= len(book.chapters):
        return Jump(book.chapters[int(words) - 1].id)
    return Jump(*parse_link(words, book))


def act_of(words: str, step: Step) -> Act:
    """The act for a number of the step's own offers, or for a line of words.

    Raises `UsageError` for what is neither.
    """
    words = words.strip()
    if not is_number(words):
        return parse_act(words)
    if not 1 <= int(words) <= len(step.tries):
        raise UsageError(_ATTEMPT, f"nothing is offered here as number {words}")
    return step.tries[int(words) - 1]


def choice_of(words: str, question: Question) -> str:
    """The key of an answer by its number. Raises `UsageError` for another."""
    words = words.strip()
    if not is_number(words) or not 1 <= int(words) <= len(question.choices):
        raise UsageError(
            _ATTEMPT, f"there is no answer {words[:40]}", f"they are 1 to {len(question.choices)}"
        )
    return question.choices[int(words) - 1].key


def is_number(word: str) -> bool:
    """Tell whether `word` is the number of an answer, an offer or a chapter."""
    return word.isascii() and word.isdigit() and len(word) < 3


def _part(name: str) -> Part:
    names = [one.value for one in Part]
    if name not in names:
        raise UsageError(_ATTEMPT, f"there is no {name[:40]!r}", f"there are {', '.join(names)}")
    return Part(name)
