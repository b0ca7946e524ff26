# SPDX-License-Identifier: MIT
"""``pyvmm run --memory-report``: the file that it writes, in each form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.cli.main import main

from . import flat

RUN = ("run", "--host", "model", "-m", "2M", "--console", "none", "--memory-report")


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image"
    path.write_bytes(flat.exiting(3))
    return str(path)


def test_the_forms_of_the_file(image: str, tmp_path: Path) -> None:
    for name in ("report", "report.json", "report.html"):
        assert main([*RUN, str(tmp_path / name), image]) == 3
    lines = (tmp_path / "report").read_text().splitlines()
    heads = ["seconds", "shared", "private", "twice", "holes", "mapped", "tables"]
    assert lines[0].split() == heads
    assert lines[-1] == "No page was seen resident twice."
    told = json.loads((tmp_path / "report.json").read_text())
    last = told["samples"][-1]
    (ram,) = last["regions"]
    assert ram["shared_bytes"] + ram["hole_bytes"] == 2 << 20
    assert last["shared_bytes"] == ram["shared_bytes"] > 0
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert f"<h1>Memory of {image}</h1>" in page
    assert "No page was seen resident twice." in page


def test_a_file_that_cannot_be_written(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "/nowhere/report", image]) == 64
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "/nowhere/report" in error


def test_a_file_that_is_the_image(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(image).read_bytes()
    assert main([*RUN, image, image]) == 64
    assert "the report of memory" in capsys.readouterr().err
    assert Path(image).read_bytes() == before
