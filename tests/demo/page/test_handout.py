# SPDX-License-Identifier: MIT
"""The hand-out: one file that asks for nothing, and is written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.page.handout import ToldChapter, handout_html
from pyvmm.demo.page.static_files import script, style
from tests.demo.page.html_tree import tree
from tests.demo.page.told import HOSTILE, hostile, told

SMALL = 360 << 10
"""Bytes that one chapter may take, with every picture of every step; 296 KiB were the most seen."""


def written(*chapters: ToldChapter) -> str:
    return handout_html(chapters, script=script(), style=style(), terms=BOOK.glossary)


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.id for one in BOOK.chapters])
def test_a_chapter_is_small_and_whole_without_scripts(name: str) -> None:
    run = told(name, BOOK)
    page = written(run)
    assert len(page.encode()) <= SMALL
    root = tree(page.removeprefix("<!DOCTYPE html>"))
    articles = [one for one in root.walk() if one.name == "article"]
    assert [one.attributes["id"] for one in articles] == [
        f"{name}/{step.id}" for step in run.chapter.steps
    ]
    for article, moment in zip(articles, run.moments, strict=True):
        assert "What came of it" in article.text
        assert article.attributes.get("data-true") == moment.came_true
    ids = Counter(one.attributes["id"] for one in root.walk() if "id" in one.attributes)
    assert max(ids.values()) == 1
    (bar,) = (one for one in root.walk() if one.attributes.get("class") == "bar")
    assert "hidden" in bar.attributes


def test_the_file_asks_for_nothing_and_forbids_itself_to() -> None:
    page = written(told(), told("slots"))
    root = tree(page.removeprefix("<!DOCTYPE html>"))
    for one in root.walk():
        assert not {"src", "href", "action"} & one.attributes.keys() or one.attributes[
            "href"
        ].startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    (policy,) = (
        one.attributes["content"]
        for one in root.walk()
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    for name, text in re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert len(script()) + len(style()) <= 40 << 10


def test_hostile_text_stays_in_its_place() -> None:
    run = told()
    page = written(ToldChapter(run.chapter, (hostile(),), HOSTILE))
    scripts = list(tree(page.removeprefix("<!DOCTYPE html>")).walk())
    assert [one.name for one in scripts].count("script") == 2
    assert [one.name for one in scripts].count("img") == 0
    inert = re.search(r'<script type="application/json" id="run">(.*?)</script>', page)
    assert inert is not None
    assert "<" not in inert[1]
    assert len(json.loads(inert[1])["moments"]) == 1
    assert "\x1b" not in page
    assert "The chapter was not told to its end: &lt;/script&gt;" in page
    page.encode()


def test_a_question_that_nothing_answers_is_told() -> None:
    run = told("slots")
    moments = tuple(replace(one, came_true=None) for one in run.moments)
    page = written(replace(run, moments=moments))
    assert page.count('<p class="verdict">None of the answers came true') == sum(
        one.question is not None for one in moments
    )


def test_a_chapter_ends_in_its_exercise_and_the_file_in_the_glossary() -> None:
    run = told("slots")
    page = written(replace(run, chapter=replace(run.chapter, exercise=7)))
    (closing,) = (one for one in tree(page).walk() if one.attributes.get("class") == "closing")
    assert "pyvmm demo --exercise 7" in closing.text
    (glossary,) = (one for one in tree(page).walk() if one.attributes.get("id") == "glossary")
    assert sum(one.name == "dt" for one in glossary.walk()) == len(BOOK.glossary)
    assert "--exercise" not in written(replace(run, chapter=replace(run.chapter, exercise=0)))


@pytest.mark.slow
def test_the_command_writes_one_chapter_or_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.html"
    steps = len(BOOK.chapters[0].steps)
    assert main(["demo", "--host", "model", "--html", str(file), "slots"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert re.fullmatch(rf"{file}: {steps} steps, [0-9]+ KiB\n", out)
    assert file.read_text().count("<article") == steps
    file.chmod(0o640)
    link = tmp_path / "link.html"
    link.symlink_to("run.html")
    assert main(["demo", "--host", "model", "--html", str(link), "guest-memfd"]) == 0
    assert link.is_symlink()
    assert file.read_text().count("<article") == len(BOOK.chapters[1].steps)
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.html", "run.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{tmp}/none/run.html"], 64, "No such file or directory"),
        (["{tmp}"], 64, "Is a directory"),
        (["/dev/full", "slots"], 71, "No space left on device"),
        (["{tmp}/run.html", "slot"], 64, "there is no chapter 'slot'; did you mean slots?"),
        (["{tmp}/run.html", "slots/overlap"], 64, "a hand-out tells a whole chapter"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str], code: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [one.format(tmp=tmp_path) for one in arguments]
    assert main(["demo", "--host", "model", "--html", *words]) == code
    out, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.html"
    file.write_text("before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fchmod", full)
    assert main(["demo", "--host", "model", "--html", str(file), "slots"]) == 71
    assert capfd.readouterr().err.count("No space left on device") == 1
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("run.html", "before")]
