# SPDX-License-Identifier: MIT
"""Files of stories that ``pyvmm lifetime`` writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.lifetime.adapting import check_story
from pyvmm.lifetime.story import Story
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


def write_text(path: Path, text: str) -> None:
    """Write a file. Raises `SystemCallError`."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemCallError(
            f"write {str(path)!r}", error.errno or 0, error.strerror or str(error)
        ) from error


def save(stories: list[Story], folder: Path) -> list[Path]:
    """A file for each story, named after design and property; the folder is made if need be.

    Raises `SystemCallError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemCallError(
            f"make the folder {str(folder)!r}", error.errno or 0, error.strerror or str(error)
        ) from error
    paths = []
    for story in stories:
        name = f"{story.design}-{story.universe.name}-{story.about}.json"
        path = folder / "".join(c if c.isalnum() or c in ".-=" else "_" for c in name)
        write_text(path, json.dumps(story.to_json(), indent=1) + "\n")
        paths.append(path)
    return paths
