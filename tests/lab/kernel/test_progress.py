# SPDX-License-Identifier: MIT
"""What the reader of a build sees."""

from __future__ import annotations

import io
import os
import pty
import time

from pyvmm.lab.kernel.progress import Lines, to_stream


def test_lines_say_begin_end_and_now_and_then() -> None:
    out = io.StringIO()
    now = 0.0
    lines = Lines(out, lambda: now)
    with lines.stage("compiling", 900, "files") as stage:
        stage.reach(1)
        now = 20
        stage.reach(300)
        stage.reach(301)
        now = 40
        stage.reach(900)
    with lines.stage("looking", None, ""):
        pass
    assert out.getvalue().splitlines() == [
        "compiling ...",
        "compiling: 300 of 900 files",
        "compiling: 900 of 900 files",
        "compiling: done (900 files, 40 s)",
        "looking ...",
        "looking: done (0 s)",
    ]


def test_bytes_are_shown_as_mebibytes() -> None:
    out = io.StringIO()
    with Lines(out, lambda: 0.0).stage("download", 10 << 20, "bytes") as stage:
        stage.reach(5 << 20)
    assert "done (5 MiB, 0 s)" in out.getvalue()


def test_a_terminal_gets_a_bar_that_is_full_only_at_the_end() -> None:
    ours, theirs = pty.openpty()
    try:
        with open(theirs, "w", closefd=False) as stream, to_stream(stream) as progress:
            progress.say("a [word]")
            with progress.stage("compiling", 4, "files") as stage:
                stage.reach(9)
                time.sleep(0.3)  # rich draws ten times a second
        shown = os.read(ours, 1 << 16).decode()
        assert "a [word]" in shown
        assert "compiling" in shown
        assert "9 of 4 files" in shown
    finally:
        os.close(ours)
        os.close(theirs)
