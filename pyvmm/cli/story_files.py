# SPDX-License-Identifier: MIT
"""Files of stories that ``pyvmm lifetime`` writes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyvmm.cli.output_paths import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    NamedFile,
    refuse_to_overwrite,
    write_output,
)
from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import check_story
from pyvmm.lifetime.story import Story
from pyvmm.machine.console.output_file import OutputFile, open_error
from pyvmm.machine.image_file import read_input

LIMIT = 4 << 20
"""The largest file that is read, in bytes: a story has a few hundred bytes a step."""


def read_stories(name: str) -> list[Story]:
    """The stories of a file: one, or a list of them.

    Raises `NoInputError`, `NoPermissionError` and `ImageError` for what is no such file,
    `UsageError` for content that is no story.
    """
    content = read_input(Path(name), LIMIT)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"read the story {name!r}", f"it is no JSON: {error}", "give a file that explore wrote"
        ) from error
    stories = [Story.from_json(each) for each in (value if isinstance(value, list) else [value])]
    for story in stories:
        check_story(story)
    return stories


def check_outputs(outputs: Sequence[NamedFile], inputs: Sequence[NamedFile] = ()) -> None:
    """See, before the work begins, that files can be written and spoil none that are read.

    Nothing is changed or left behind. Raises what `refuse_to_overwrite` and `OutputFile` raise.
    """
    refuse_to_overwrite([STANDARD_OUTPUT, STANDARD_ERROR, *outputs], inputs)
    for output in outputs:
        if isinstance(output.place, Path):
            with OutputFile(output.place, f"write {output.role} to {output.place}"):
                pass


def write_text(output: NamedFile, text: str) -> None:
    """Write a file, whose place is a path. Raises `SystemCallError`."""
    assert isinstance(output.place, Path)
    attempt = f"write {output.role} to {output.place}"
    with OutputFile(output.place, attempt) as file:
        write_output(file, text, attempt)


def save(stories: list[Story], folder: Path, others: Sequence[NamedFile] = ()) -> int:
    """Write a file for each story, named after design and property; how many there are.

    The folder is made if need be. None of the files is one of `others`. Raises `SystemCallError`
    or `UsageError`.
    """
    texts = {}
    for story in stories:
        name = f"{story.design}-{story.universe.name}-{story.about}.json"
        name = "".join(c if c.isalnum() or c in ".-=" else "_" for c in name)
        texts[name] = json.dumps(story.to_json(), indent=1) + "\n"
    write_texts(folder, texts, "a story", others)
    return len(texts)


def write_texts(
    folder: Path, texts: Mapping[str, str], role: str, others: Sequence[NamedFile] = ()
) -> None:
    """Write files, by name, into a folder, which is made if need be; none of them is of `others`.

    Raises `SystemCallError` or `UsageError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise open_error(f"make the folder {folder}", error) from error
    files = {NamedFile(role, folder / name): text for name, text in texts.items()}
    refuse_to_overwrite([*others, *files], [])
    for file, text in files.items():
        write_text(file, text)
