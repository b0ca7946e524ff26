# SPDX-License-Identifier: MIT
"""Documents that are run as they are written: files and commands in code blocks, shown output.

The first word behind a fence is the language, the second a file's name. In a block of the language
``console`` the lines that begin with ``$ `` are commands, and the others what they print: ``...``
stands for any number of lines, or letters, and times and the width of pytest's rules do not count.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)(?: ([^\s`]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_END = "\x01"
"""Ends what a command prints, and its status."""


@dataclass(frozen=True)
class Block:
    """A code block: `name` is a file's, or empty."""

    language: str
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and what is shown of its output."""

    line: str
    shown: str


def blocks(document: str) -> list[Block]:
    """The code blocks that name a language."""
    return [Block(*found.groups("")) for found in _FENCE.finditer(document)]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of the language "console"."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        yield Command(line, shown)


def is_shown(shown: str, printed: str) -> bool:
    """Compare what a document shows with what was printed."""
    pieces = re.split(r"^\.\.\.\n|\.\.\.", _settled(shown), flags=re.MULTILINE)
    wanted = ".*".join(map(re.escape, pieces))
    return re.fullmatch(wanted, _settled(printed), re.DOTALL) is not None


def _settled(text: str) -> str:
    """Text without what differs from run to run: times, addresses, the width of rules."""
    text = re.sub(r"\d+\.\d+s\b", "TIMEs", text)
    text = re.sub(r"0x[0-9a-f]{9,}", "ADDRESS", text)
    text = re.sub(r"([=_])\1{2,}", r"\1\1\1", text)
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def run_as_written(
    document: str, folder: Path, environment: Mapping[str, str]
) -> list[tuple[Command, str, int]]:
    """Write the files and give the commands to one shell, in the document's order.

    Returns each command with what it printed and its exit status. Files go to the shell's folder.
    """
    script = ["last=0\n"]
    every = []
    for number, block in enumerate(blocks(document)):
        if block.name:
            kept = folder / f".block-{number}"
            kept.write_text(block.text, encoding="utf-8")
            script.append(f"mkdir -p \"$(dirname '{block.name}')\"; cp '{kept}' '{block.name}'\n")
        elif block.language == "console":
            for command in commands(block):
                every.append(command)
                script.append(f"(exit $last)\n{command.line}\nlast=$?\n")
                script.append(f"printf '%s%d%s' '{_END}' $last '{_END}'\n")
    (folder / ".script").write_text("".join(script), encoding="utf-8")
    done = subprocess.run(
        ["bash", folder / ".script"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    told = done.stdout.decode("utf-8", "backslashreplace").split(_END)
    assert len(told) == 2 * len(every) + 1, told[-1]
    return [
        (command, told[2 * index], int(told[2 * index + 1])) for index, command in enumerate(every)
    ]
