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
from pyvmm.lifetime.writeup import generated, generated_stories, parts_of, put
from pyvmm.machine.image_file import read_input
from pyvmm.visible import visible

DIFFERS = 1


def command(options: argparse.Namespace) -> int:
    """Print the parts; or put them into documents, or say whether they are in them."""
    if options.check and not options.files:
        raise UsageError("check a document", "none is given", "name one")
    documents = [NamedFile("the document", Path(name)) for name in options.files]
    check_outputs([] if options.check else documents, documents if options.check else [])
    before = [read_input(Path(name), LIMIT).decode("utf-8", "replace") for name in options.files]
    progress = Progress()
    evidence = Evidence(progress=progress.tell)
    after = [put(each, parts_of(each, evidence)) for each in before]
    if not documents:
        parts = generated(evidence) | generated_stories(evidence)
        progress.done()
        print_answer("\n\n".join(f"{name}\n\n{text}" for name, text in parts.items()))
        return ExitCode.OK
    progress.done()
    found = list(zip(options.files, before, after, strict=True))
    if options.check:
        other = [visible(name) for name, old, new in found if old != new]
        told = [f"{name} is not what is generated now" for name in other] or ["as generated"]
        print_answer("\n".join(told))
        return DIFFERS if other else ExitCode.OK
    for document, new in zip(documents, after, strict=True):
        write_text(document, new)
    return ExitCode.OK
