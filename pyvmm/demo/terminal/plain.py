# SPDX-License-Identifier: MIT
"""The demo line by line: for a terminal of any kind, a screen reader, and for no terminal at all.

Text is only ever appended. Where nobody answers it plays through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from pyvmm.demo.playing import Playing
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.links import parse_link
from pyvmm.demo.telling.player import Jump, Moment, Move, Phase, Plain, Predict, Try, View
from pyvmm.demo.terminal import text
from pyvmm.errors import UsageError

Write = Callable[[str], None]
Ask = Callable[[str], Awaitable[str | None]]
"""Shows a prompt, and gives a line without its end; None: nobody answers any more."""

_WORDS = (
    ("Enter", "the next step"),
    ("1-9", "predict, then carry the step out"),
    ("b", "back to the moment before"),
    ("r", "restart the chapter"),
    ("j NAME", "jump to a chapter"),
    ("t ACT", "try something: as `t read host 0 0x1000`"),
    ("q", "quit"),
)


async def play(playing: Playing, book: Book, write: Write, ask: Ask | None, width: int) -> bool:
    """Play until the reader quits, or the book ends; `ask` None: play the chapter through.

    Gives False where of a question's answers none came true.
    """
    all_true = True
    seen: Moment | None = None
    while True:
        view = playing.player.view
        if view.moment is not None and view.moment is not seen and not view.moment.was_tried:
            has_question = view.moment.step.question is not None
            all_true &= view.moment.came_true is not None or not has_question
        _show(view, seen, write, width)
        seen = view.moment
        if view.phase in {Phase.ENDED, Phase.LOST} and ask is None:
            return all_true
        move: Move | None = Plain.NEXT
        if ask is not None:
            move = await _asked(view, book, write, ask)
        if move is None:
            return all_true
        await playing.move(move)


def _show(view: View, seen: Moment | None, write: Write, width: int) -> None:
    lines: Iterable[str] = ()
    if view.notice:
        write(view.notice)
    if view.phase is Phase.ASKING:
        lines = ("", *text.heading(view, width), *text.asking(view.step, width), "")
    elif view.moment is not None and view.phase is Phase.SHOWING:
        lines = text.showing(view.moment, width)
    elif view.phase is Phase.ENDED:
        lines = ("", *text.closing(view.chapter, width), "")
    if not view.notice or (view.phase is Phase.SHOWING and view.moment is not seen):
        for line in lines:
            write(line)


async def _asked(view: View, book: Book, write: Write, ask: Ask) -> Move | None:
    """Ask until the answer is a move; None to quit."""
    while True:
        line = await ask(_prompt(view))
        if line is None or line.strip() == "q":
            return None
        try:
            move = parse_line(line, view, book)
        except UsageError as error:
            write(f"{error.cause}; {error.remedy}" if error.remedy else error.cause)
            continue
        if move is not None:
            return move
        for word, about in _WORDS:
            write(f"  {word:<8}{about}")


def _prompt(view: View) -> str:
    if view.phase is Phase.ASKING and view.step.question is not None:
        return f"1-{len(view.step.question.choices)}, Enter to see, ? for help: "
    return "Enter, ? for help: "


def parse_line(line: str, view: View, book: Book) -> Move | None:
    """The move that a line means, None for help. Raises `UsageError` for what means none."""
    attempt = "take this line"
    word, _, rest = line.strip().partition(" ")
    match word:
        case "":
            return Plain.NEXT
        case "b":
            return Plain.BACK
        case "r":
            return Plain.RESTART
        case "s":
            return Plain.SKIP
        case "?" | "h" | "help":
            return None
        case "t":
            return Try(parse_act(rest))
        case "j":
            return Jump(*parse_link(rest.strip(), book))
    question = view.step.question
    if word.isascii() and word.isdigit() and len(word) < 3:
        choices = () if question is None else question.choices
        if not 1 <= int(word) <= len(choices):
            raise UsageError(attempt, f"there is no answer {word}")
        return Predict(choices[int(word) - 1].key)
    raise UsageError(attempt, f"{word[:40]!r} means nothing here", "? says what does")
