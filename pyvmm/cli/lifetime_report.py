# SPDX-License-Identifier: MIT
"""``pyvmm lifetime report``: the write-up's tables, made anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.progress import Progress
from pyvmm.cli.standard_output import print_answer
from pyvmm.cli.story_files import LIMIT, check_outputs, write_text
from pyvmm.errors import ExitCode, UsageError
from pyvmm.lifetime.evidence import Evidence
from pyvmm.lifetime.writeup import generated, put
from pyvmm.machine.image_file import read_input
from pyvmm.visible import visible

DIFFERS = 1


def command(options: argparse.Namespace) -> int:
    """Print the parts; or put them into a document, or say whether they are in it."""
    if options.check and options.file is None:
        raise UsageError("check a document", "none is given", "name one")
    before = ""
    document = NamedFile("the document", Path(options.file or ""))
    if options.file is not None:
        check_outputs([] if options.check else [document], [document] if options.check else [])
        before = read_input(Path(options.file), LIMIT).decode("utf-8", "replace")
    progress = Progress()
    parts = generated(Evidence(progress=progress.tell))
    progress.done()
    if options.file is None:
        print_answer("\n\n".join(f"{name}\n\n{text}" for name, text in parts.items()))
        return ExitCode.OK
    after = put(before, parts)
    if options.check:
        same = after == before
        name = visible(options.file)
        print_answer("as generated" if same else f"{name} is not what is generated now")
        return ExitCode.OK if same else DIFFERS
    write_text(document, after)
    return ExitCode.OK
