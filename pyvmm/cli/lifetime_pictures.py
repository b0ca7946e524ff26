# SPDX-License-Identifier: MIT
"""``pyvmm lifetime pictures``: the write-up's pictures, made anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyvmm.cli.standard_output import print_answer
from pyvmm.cli.story_files import LIMIT, write_texts
from pyvmm.errors import ExitCode
from pyvmm.lifetime.pictures import texts
from pyvmm.machine.image_file import read_input
from pyvmm.visible import visible

DIFFERS = 1


def command(options: argparse.Namespace) -> int:
    """Write the pictures, or say which of them are not there as they are made now."""
    folder = Path(options.folder)
    made = texts()
    if not options.check:
        write_texts(folder, made, "a picture")
        print_answer(f"{len(made)} pictures in {visible(options.folder)}")
        return ExitCode.OK
    others = [
        name for name, text in made.items() if read_input(folder / name, LIMIT) != text.encode()
    ]
    print_answer("\n".join(f"{name} is not what is made now" for name in others) or "as made now")
    return DIFFERS if others else ExitCode.OK
