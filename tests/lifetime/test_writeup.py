# SPDX-License-Identifier: MIT
"""The write-up's generated parts: they are in the documents as they would be made now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.pictures import STORIES as PICTURES
from pyvmm.lifetime.properties import BY_NAME
from pyvmm.lifetime.race_table import in_columns, older_kernels
from pyvmm.lifetime.writeup import (
    STORIES,
    UNIVERSE_OF,
    generated,
    generated_stories,
    parts_of,
    put,
)

from .gathered import LITTLE, WHOLE

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = DOCS / "lifetime.md"
DOCUMENTS = (DOCUMENT, DOCS / STORIES)
_GENERATED = re.compile(r"<!-- generated: (\S+) -->.*?<!-- end: \1 -->", re.DOTALL)
_MEASURED = re.compile(r"<!-- measured -->.*?<!-- end of measured -->", re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_MANY = re.compile(r"\d+(?:,\d{3})+|\d{3,}")
_YEAR = re.compile(r"20[12]\d")


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_have_what_is_generated_now(path: Path) -> None:
    document = path.read_text(encoding="utf-8")
    assert put(document, parts_of(document, WHOLE)) == document


def test_parts_are_put_between_their_markers() -> None:
    document = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    once = put(document, {"x": "new\n"})
    assert once == "a\n<!-- generated: x -->\nnew\n<!-- end: x -->\nb\n"
    assert put(once, {"x": "new"}) == once
    with pytest.raises(UsageError, match="'y'"):
        put(document, {"x": "", "y": ""})
    with pytest.raises(UsageError, match="nothing generates"):
        put(document, {})


def written_by_hand(path: Path) -> str:
    """A document without what is generated, measured, or code."""
    text = _GENERATED.sub("", path.read_text(encoding="utf-8"))
    return _CODE.sub("", _MEASURED.sub("", text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_number_of_a_run_is_written_by_hand(path: Path) -> None:
    """Such numbers go stale; a year does not."""
    found = [each for each in _MANY.findall(written_by_hand(path)) if not _YEAR.fullmatch(each)]
    assert not found


def test_pictures_and_stories_that_the_write_up_names_are_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    pictures = re.findall(r"\]\(pictures/([^)]+)\)", text)
    assert set(pictures) == {"two-designs.svg"} | {f"{each.name}.svg" for each in PICTURES}
    assert all((DOCS / "pictures" / name).is_file() for name in pictures)
    headings = re.findall(r"^#+ (.+)$", (DOCS / STORIES).read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {each.lower().replace(" ", "-") for each in headings}
    named = re.findall(rf"\({STORIES}#([^)]+)\)", text)
    assert len(named) > 20
    assert set(named) <= anchors


@pytest.mark.slow
def test_a_property_that_fails_has_its_story_and_every_claim_a_verdict() -> None:
    parts, stories = generated(LITTLE), generated_stories(LITTLE)
    rows = parts["properties"].splitlines()
    assert len({row.count("|") for row in rows}) == 1
    leak = next(row for row in rows if "contents-stay" in row)
    cells = [cell.strip() for cell in leak.strip("|").split("|")[1:]]
    assert [cell.startswith("**fails**") for cell in cells] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    number = cells[1].split("story ")[1].split("]")[0]
    assert f"### Story {number}\n\ncontents-stay, memslot-pins-file:" in stories["stories"]
    assert parts["claims"].count('| "') == 12
    assert "| memslot-pins-file + owner-in-inode | **sufficient** | lacks" in parts["answer"]
    for name in ("properties", "answer", "features", "older", "counts"):
        lines = [line for line in parts[name].splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1, name
    races = [line for line in parts["races"].splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in races}) == 1
    assert parts["races"].count("**no harm**") == 3


def test_every_property_of_a_feature_has_a_universe_that_checks_it() -> None:
    for each in BY_NAME.values():
        if each.needs is not None:
            assert UNIVERSE_OF[each.needs].has(each.needs)


def test_a_schedule_in_columns_has_each_step_in_its_task_s() -> None:
    schedule = older_kernels()
    head, rows = in_columns(schedule)
    assert head[1:] == [str(task) for task in schedule.scenario.tasks]
    assert [[cell for cell in row[1:] if cell] for row in rows] == [
        [name] for _, name in schedule.steps
    ]
    for row, (task, name) in zip(rows, schedule.steps, strict=True):
        assert row[1 + task] == name
