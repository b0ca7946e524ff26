# SPDX-License-Identifier: MIT
"""The demo line by line: for a terminal of any kind, a screen reader, and for no terminal at all.

Text is only ever appended, without control sequences. Where nobody answers it plays through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from pyvmm.demo.playing import Playing
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Staged
from pyvmm.demo.telling.player import Jump, Move, Phase, Plain, Try, View
from pyvmm.demo.telling.predictions import question_of
from pyvmm.demo.terminal import text
from pyvmm.demo.terminal.commands import (
    ChooseAct,
    ChooseChapter,
    Command,
    Help,
    PredictAct,
    Quit,
    ShowPart,
    Terms,
    act_of,
    choice_of,
    jump_to,
    parse_line,
)
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.demo.terminal.parts import Part, Shown, in_order, parts, pictures
from pyvmm.demo.terminal.references import chapter_lines, glossary_lines, help_lines, try_lines
from pyvmm.errors import UsageError

Write = Callable[[str], None]
Ask = Callable[[str], Awaitable[str | None]]
"""Shows a prompt, and gives a line without its end; None: nobody answers any more."""


async def play(playing: Playing, book: Book, write: Write, ask: Ask, width: int) -> None:
    """Play until the reader quits, or nobody answers any more; `playing` has begun."""
    reader = _Reader(book, write, width, brief=True)
    while True:
        view = playing.player.view
        reader.show(view)
        if (move := await _asked(reader, view, ask)) is None:
            return
        await playing.move(move)


async def play_through(
    playing: Playing, book: Book, write: Write, width: int, *, whole: bool
) -> bool:
    """Play the chapter that has begun, and with `whole` those behind it, without being asked.

    Gives False where of a question's answers none came true, or a stage was lost.
    """
    reader = _Reader(book, write, width, brief=False)
    all_true = True
    while True:
        view = playing.player.view
        reader.show(view)
        moment = view.moment
        if view.phase is Phase.SHOWING and moment is not None and moment.step.question is not None:
            all_true &= moment.came_true is not None
        move: Move = Plain.NEXT
        if view.phase in {Phase.ENDED, Phase.LOST}:
            all_true &= view.phase is Phase.ENDED
            if not whole or view.following is None:
                return all_true
            move = Jump(view.following.id)
        await playing.move(move)


class _Reader:
    """One reader, and what they have seen."""

    def __init__(self, book: Book, write: Write, width: int, *, brief: bool) -> None:
        self.book = book
        self.width = width
        self._write = write
        self._seen: Moment | None = None
        self._staged: tuple[str, Staged | None] = ("", None)
        """Chapter and stage that were told of last."""
        self._has_legend = False
        self._brief = brief

    def write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._write(line.text)

    def show(self, view: View) -> None:
        """Write what is new in a view: only a notice, where there is one and nothing else."""
        is_new = view.phase is Phase.SHOWING and view.moment is not self._seen
        if view.notice:
            self.say(view.notice)
        if is_new or not view.notice:
            self.write(self._lines(view))
        self._seen = view.moment

    def say(self, words: str) -> None:
        """Write a sentence."""
        self.write(wrapped(words, self.width, Tone.NOTICE))

    def _lines(self, view: View) -> Iterable[Line]:
        width = self.width
        if view.phase is Phase.ASKING:
            yield Line("")
            heading = wrapped(text.heading(view), width, Tone.HEAD)
            yield from heading
            yield Line("-" * len(heading[0].text))
            if view.staged is not None and self._staged != (view.chapter.id, view.staged):
                yield from text.not_real(view.staged, width)
                self._staged = view.chapter.id, view.staged
            yield from text.saying(view.step, width)
            if view.step.question is not None:
                yield Line("")
                yield from text.asking(view.step.question, width)
            yield Line("")
        elif view.moment is not None and view.phase is Phase.SHOWING:
            yield from self._moment(view, view.moment)
        elif view.phase is Phase.ENDED:
            yield Line("")
            yield from text.closing(view, width)
            yield Line("")

    def _moment(self, view: View, moment: Moment) -> Iterable[Line]:
        if moment.staged != view.staged:
            yield from text.not_real(moment.staged, self.width)
        shown = parts(moment, self.width, brief=self._brief, legend=not self._has_legend)
        self._has_legend |= any(one.part is Part.PINS and one.changed for one in shown)
        yield from in_order(moment, shown, self.width)

    def part(self, view: View, wanted: Part | None) -> Iterable[Line]:
        """One part in full, or all of them, of what is shown or of the state now."""
        shown: Iterable[Shown]
        if view.moment is not None:
            shown = parts(view.moment, self.width)
        else:
            shown = pictures(view.observed, view.observed, self.width)
        found = [one for one in shown if wanted in {None, one.part}]
        if not found and wanted is not None:
            yield Line(f"there is nothing of that kind here: {wanted.value}")
        for one in found:
            yield from one.lines


async def _asked(reader: _Reader, view: View, ask: Ask) -> Move | None:
    """Ask until the answer is a move; None to quit."""
    while True:
        line = await ask(_prompt(view))
        if line is None:
            return None
        try:
            command = await _completed(reader, view, parse_line(line, view, reader.book), ask)
        except UsageError as error:
            reader.say(f"{error.cause}; {error.remedy}" if error.remedy else error.cause)
            continue
        match command:
            case Quit():
                return None
            case Help():
                reader.write(help_lines(reader.width))
            case Terms(word=word):
                reader.write(glossary_lines(reader.book, word, reader.width))
            case ShowPart(part=part):
                reader.write(reader.part(view, part))
            case ChooseChapter() | ChooseAct() | PredictAct():
                pass  # Asked for the rest of it, the reader said nothing.
            case _:
                return command


def _prompt(view: View) -> str:
    match view.phase:
        case Phase.ASKING if view.step.question is not None:
            return f"1-{len(view.step.question.choices)}, Enter to see, ? for help: "
        case Phase.ENDED:
            return "Enter for the next chapter, ? for help: "
        case Phase.LOST:
            return "Enter to begin the chapter again, ? for help: "
    return "Enter, ? for help: "


async def _completed(reader: _Reader, view: View, command: Command, ask: Ask) -> Command:
    """Ask for what a command lacks; as it is where nothing is said. Raises `UsageError`."""
    if isinstance(command, ChooseChapter):
        reader.write(chapter_lines(reader.book, view.chapter, reader.width))
        line = await ask("chapter, by number or name: ")
        return jump_to(line.strip(), reader.book) if line and line.strip() else command
    if isinstance(command, ChooseAct):
        reader.write(try_lines(view.step, view.chapter.setup.kind, reader.width))
        line = await ask("try, by number or in words: ")
        if not line or not line.strip():
            return command
        command = PredictAct(act_of(line, view.step))
    if isinstance(command, PredictAct):
        question = question_of(command.act)
        reader.write(text.asking(question, reader.width))
        line = await ask(f"1-{len(question.choices)}, Enter to see: ")
        predicted = choice_of(line, question) if line and line.strip() else None
        return Try(command.act, predicted)
    return command
