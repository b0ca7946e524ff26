# SPDX-License-Identifier: MIT
"""The demo on a terminal's screen: drawn anew after each key, and when its size changes.

There is no alternate screen: what was read stays in the terminal's history when the demo ends.
"""

from __future__ import annotations

import io
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio
from rich.console import Console
from rich.text import Text

from pyvmm.demo.playing import Playing
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.player import Player
from pyvmm.demo.terminal.frames import Frame
from pyvmm.demo.terminal.keys import Keys, Pressed
from pyvmm.demo.terminal.lines import Line, Tone
from pyvmm.demo.terminal.reading import Away, Reading
from pyvmm.machine.console.terminal import RawTerminal, is_foreground_terminal

_STYLES = {
    Tone.PLAIN: "",
    Tone.HEAD: "bold",
    Tone.ASKED: "bold",
    Tone.WORKED: "bold green",
    Tone.REFUSED: "bold red",
    Tone.CHANGED: "yellow",
    Tone.FAINT: "dim",
    Tone.NOTICE: "bold",
}
_SIZE = os.terminal_size((80, 24))
"""Size of a terminal that does not say."""
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2K", "\x1b[J"
_AT_ONCE = 4096

Encode = Callable[[str], bytes]


class Screen:
    """A terminal as a screen with keys: the descriptors 0 and 1, which are not owned.

    Its settings are as before behind `close`, and while the process is stopped.
    """

    job_signals = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
    """Signals that `signalled` is to be told of."""

    def __init__(self, book: Book, player: Player, encode: Encode) -> None:
        """`encode` makes bytes of text, as this terminal takes them."""
        self._player = player
        self._reading = Reading(book)
        self._encode = encode
        self._terminal = RawTerminal(0, signals=True)
        self._is_on = False
        self._foreground = trio.Event()
        self._unused: deque[Pressed] = deque()

    async def open(self) -> None:
        """Take the terminal, and show the first words: there need be no stage yet."""
        await self._wait_for_foreground()
        self._is_on = True
        self._take()
        self._draw()

    async def play(self, playing: Playing) -> Away:
        """Play until the reader goes away. Raises what opening a first stage raises."""
        await self._shown(playing.begin)
        return await self._read(playing)

    def close(self) -> None:
        """Give the terminal back; a second call does nothing."""
        if self._is_on:
            self._is_on = False
            self._give_back()
        self._terminal.close()

    def signalled(self, number: int) -> None:
        """Take one of `job_signals`."""
        if number == signal.SIGTSTP:
            if self._is_on:
                self._give_back()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._is_on and is_foreground_terminal(0):
            if number == signal.SIGCONT:
                self._take()
                self._foreground.set()
            self._draw()

    async def _wait_for_foreground(self) -> None:
        while not is_foreground_terminal(0):
            self._foreground = trio.Event()
            await self._foreground.wait()

    def say(self, words: str) -> None:
        """Show a line on what is under way."""
        self._reading.say(words)
        self._draw()

    async def _read(self, playing: Playing) -> Away:
        keys = Keys()
        while True:
            self._draw()
            while not self._unused:
                await trio.lowlevel.wait_readable(0)
                await self._wait_for_foreground()
                try:
                    data = os.read(0, _AT_ONCE)
                except OSError:  # Hung up.
                    data = b""
                if not data:
                    return Away.QUIT
                self._unused.extend(keys.feed(data))
            size = _size()
            asked = self._reading.press(
                self._unused.popleft(), playing.player.view, size.columns, size.lines
            )
            if isinstance(asked, Away):
                return asked
            if asked is not None:
                await self._shown(partial(playing.move, asked))

    async def _shown(self, move: Callable[[], Awaitable[None]]) -> None:
        """Make a move, and show that it is under way where it is not done at once."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._draw_soon)
            try:
                await move()
            except Exception as error:  # noqa: BLE001 - raised below, without a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _draw_soon(self) -> None:
        await trio.lowlevel.checkpoint()
        self._draw()

    # -- the terminal --

    def _take(self) -> None:
        """Have keys one by one, and a screen whose old lines are in the history."""
        self._terminal.enter()
        self._write("\r\n" * (_size().lines - 1))

    def _give_back(self) -> None:
        """Settings as before; what is written next comes below the screen."""
        self._terminal.restore()
        self._write(f"\x1b[{_size().lines};1H\r\n")

    def _draw(self) -> None:
        if not is_foreground_terminal(0):
            return
        size = _size()
        frame = self._reading.frame(self._player.view, size.columns, size.lines)
        self._write(_HOME + drawn(frame, size.columns))

    def _write(self, text: str) -> None:
        left = memoryview(self._encode(text))
        with suppress(OSError):  # Hung up, which whoever reads the keys is told.
            while left:
                left = left[os.write(1, left) :]


def drawn(frame: Frame, columns: int) -> str:
    """A frame from the upper left corner on, in the colours that this terminal has."""
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        width=columns,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    rows = [_CLEAR_LINE + _styled(console, line, columns) for line in frame.lines]
    # Cleared first: in the last column a terminal would clear the letter there.
    return "\r\n".join(rows) + _CLEAR_BELOW


def _styled(console: Console, line: Line, columns: int) -> str:
    text = Text(line.text, _STYLES[line.tone], end="", no_wrap=True)
    text.truncate(columns)
    with console.capture() as capture:
        console.print(text, end="")
    return capture.get()


def _size() -> os.terminal_size:
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return _SIZE
    return size if size.columns and size.lines else _SIZE
