# SPDX-License-Identifier: MIT
"""One reader in front of a screen: what each key does, and what is to be shown. Sans-I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.demo.telling.acts import Act, act_words
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.player import Jump, LookAt, Plain, Predict, Try, View
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
    onward,
    parse_line,
)
from pyvmm.demo.terminal.frames import Frame, Page, framed, page_of
from pyvmm.demo.terminal.keys import Key, Pressed
from pyvmm.demo.terminal.lines import EMPTY, Line, Tone, wrapped
from pyvmm.demo.terminal.parts import Part
from pyvmm.demo.terminal.references import chapter_lines, glossary_lines, help_lines, try_lines
from pyvmm.demo.terminal.text_pins import key as key_lines
from pyvmm.errors import UsageError

_MOST_TYPED = 400
_OWN_HELP = (
    ("Space", "more, where a screen does not hold it all (also Page Down and Up)"),
    ("v", "on a small screen: calls, attacker, console, pages and pins in turn"),
    ("p", "go on line by line, for screen readers"),
    ("Ctrl-L", "draw the screen again"),
)
_KEYS: dict[Pressed, str] = {Key.FORWARD: "n", Key.BACK: "b"}


def _help(width: int) -> list[Line]:
    """The commands, and the marks that no step has room to explain."""
    marks = Line("Marks in the graph of who keeps what alive", Tone.HEAD)
    return [*help_lines(width, _OWN_HELP), marks, *key_lines(width)]


class Away(enum.Enum):
    """Way out of the screen."""

    QUIT = "quit"
    PLAIN = "plain"
    """To go on line by line."""


Asked = Plain | Jump | Predict | LookAt | Try | Away
"""Result of a key, beyond another look: a move, or the way out."""


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Something that lies over the step: `lines` are made for a width; `take` gets what is typed.

    Without `prompt` any key takes the sheet away. `single`: one key is all that is typed.
    """

    lines: Callable[[int], list[Line]]
    prompt: str = ""
    take: Callable[[str], Command] | None = None
    single: bool = False


class Reading:
    """One reader's screen: which part is shown, how far it is scrolled, what is being typed."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._sheet: _Sheet | None = None
        self._typed = ""
        self._part: Part | None = None
        self._scroll = 0
        self._said = ""
        self._place: object = None
        self._size = (80, 24)

    def say(self, words: str) -> None:
        """Show a line until the next key."""
        self._said = words

    def press(self, key: Pressed, view: View, width: int, height: int) -> Asked | None:
        """Take a key; None where it only changes what is shown."""
        self._said = ""
        self._arrived(view)
        self._size = (width, height)
        if key is Key.REDRAW:
            return None
        if key in {Key.PAGE_DOWN, Key.PAGE_UP, Key.UP, Key.DOWN} or (
            key == " " and self._scrolls(view)
        ):
            self._move_on(key, view)
            return None
        try:
            command = self._command(key, view)
        except UsageError as error:
            self._said = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
            return None
        return None if command is None else self._obey(command, view)

    def frame(self, view: View, width: int, height: int) -> Frame:
        """All that a screen of this size shows now."""
        self._arrived(view)
        notice = self._said or view.notice
        if self._sheet is None:
            page = page_of(view, self._part, width, height)
            return framed(page, self._scroll, notice, width, height)
        prompt = f"{self._sheet.prompt}{self._typed}" if self._sheet.prompt else ""
        page = Page(text.heading(view), self._sheet.lines(width), ("any key goes back",), prompt)
        return framed(page, self._scroll, self._said, width, height)

    def _arrived(self, view: View) -> None:
        """Begin at the top of what is new."""
        place = (view.chapter.id, view.step.id, view.phase, len(view.moments), id(view.moment))
        if place != self._place:
            self._place = place
            self._scroll, self._part = 0, None

    def _scrolls(self, view: View) -> bool:
        """Tell whether Space does: not behind what was typed, nor where a sheet is all shown."""
        if self._sheet is None:
            return True
        frame = self.frame(view, *self._size)
        return not self._typed and (bool(self._sheet.prompt) or frame.total > frame.room)

    def _move_on(self, key: Pressed, view: View) -> None:
        """Scroll; behind the end comes the beginning."""
        frame = self.frame(view, *self._size)
        step = 1 if key in {Key.UP, Key.DOWN} else max(1, frame.room - 1)
        if key in {Key.UP, Key.PAGE_UP}:
            self._scroll = max(0, frame.first - step)
        elif frame.first + frame.room >= frame.total:
            self._scroll = 0 if key in {" ", Key.PAGE_DOWN} else frame.first
        else:
            self._scroll = frame.first + step

    # -- keys --

    def _command(self, key: Pressed, view: View) -> Command | Away | None:
        if self._sheet is not None:
            return self._on_sheet(self._sheet, key)
        if key is Key.END:
            return Quit()
        if key is Key.ENTER:
            return onward(view)
        if key == "p":
            return Away.PLAIN
        letter = _KEYS.get(key, key)
        return parse_line(letter, view, self._book) if isinstance(letter, str) else None

    def _on_sheet(self, sheet: _Sheet, key: Pressed) -> Command | None:
        if not sheet.prompt or key in {Key.ESCAPE, Key.END}:
            self._take_away()
        elif sheet.single and key is not Key.ENTER:
            if isinstance(key, str) and sheet.take is not None:
                command = sheet.take(key)
                self._take_away()
                return command
        elif key is Key.ENTER:
            return self._typed_line(sheet)
        elif key is Key.BACKSPACE:
            self._typed = self._typed[:-1]
        elif key is Key.DELETE_LINE:
            self._typed = ""
        elif isinstance(key, str) and len(self._typed) < _MOST_TYPED:
            self._typed += key
        return None

    def _typed_line(self, sheet: _Sheet) -> Command | None:
        """Take what was typed; it stays to be changed where it means nothing."""
        typed = self._typed.strip()
        command: Command | None = None
        if (typed or sheet.single) and sheet.take is not None:
            command = sheet.take(typed)
        self._take_away()
        return command

    def _take_away(self) -> None:
        self._sheet, self._typed, self._scroll = None, "", 0

    def _lay(self, sheet: _Sheet) -> None:
        self._sheet, self._typed, self._scroll = sheet, "", 0

    # -- commands --

    def _obey(self, command: Command | Away, view: View) -> Asked | None:
        match command:
            case Quit():
                return Away.QUIT
            case Help():
                self._lay(_Sheet(_help))
            case Terms(word=word):
                self._lay(_Sheet(lambda width: list(glossary_lines(self._book, word, width))))
            case ShowPart():
                self._next_part(view)
            case ChooseChapter():
                self._lay(
                    _Sheet(
                        lambda width: list(chapter_lines(self._book, view.chapter, width)),
                        "chapter, by number or name: ",
                        lambda typed: jump_to(typed, self._book),
                    )
                )
            case ChooseAct():
                self._lay(
                    _Sheet(
                        lambda width: list(try_lines(view.step, view.chapter.setup.kind, width)),
                        "try, by number or in words: ",
                        lambda typed: PredictAct(act_of(typed, view.step)),
                    )
                )
            case PredictAct(act=act):
                self._predict(act)
            case _:
                return command
        return None

    def _predict(self, act: Act) -> None:
        question = question_of(act)

        def lines(width: int) -> list[Line]:
            return [
                *wrapped(f"You try: {act_words(act)}", width, Tone.HEAD),
                EMPTY,
                *text.asking(question, width),
            ]

        def take(typed: str) -> Command:
            return Try(act, choice_of(typed, question) if typed else None)

        prompt = f"1-{len(question.choices)} predict, Enter see, Escape not: "
        self._lay(_Sheet(lines, prompt, take, single=True))

    def _next_part(self, view: View) -> None:
        page = page_of(view, self._part, *self._size)
        if page.parts:
            at = page.parts.index(self._part or page.part or page.parts[0])
            self._part = page.parts[(at + 1) % len(page.parts)]
            self._scroll = 0
