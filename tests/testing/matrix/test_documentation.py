# SPDX-License-Identifier: MIT
"""The example of docs/matrix.md: its file, run as it is there, prints what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.testing.matrix.matrix_file import parse_matrix

PAGE = (Path(__file__).parents[3] / "docs" / "matrix.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def lines(text: str) -> list[str]:
    """Lines with one blank for each gap, and without what differs from run to run."""
    text = re.sub(r"\d+\.\d+ s\b", "N s", text)
    text = re.sub(r"\d+ at a time", "N at a time", text)
    return [" ".join(line.replace("─", "-").split()) for line in text.splitlines()]


def ruled(listed: list[str]) -> list[str]:
    """Without the line below the table's head, which is as long as the times are."""
    return [line for line in listed if line.strip("- ")]


@pytest.mark.slow
@pytest.mark.kvm
@pytest.mark.qemu
def test_the_example_prints_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    Path("boots.toml").write_text(block("toml"), encoding="utf-8")
    first, _, told = block("console").partition("\n")
    assert first == "$ pyvmm matrix boots.toml"
    assert main(first.removeprefix("$ pyvmm ").split()) == 0
    assert ruled(lines(capfd.readouterr().out)) == ruled(lines(told))


def test_every_key_that_a_file_may_have_is_on_the_page() -> None:
    text = (
        'memory = "2M"\ncpus = 1\nhosts = "kvm"\ntimeout = 1\n[[image]]\npath = "a"\nname = "a"\n'
        'append = ""\ninitrd = "b"\ninput = ""\nprivate = true\ntimeout = 1\nmemory = "2M"\n'
        'cpus = 2\nhosts = ["model", "kvm"]\n'
        'expect = { status = 1, end = "exited", console = "a", regex = "b", absent = "c" }\n'
        '[[exclude]]\nimages = "a"\nhosts = "kvm"\nreason = "so"\n'
        '[[expect]]\nimages = "a"\nfails = "so"\n[[expect]]\nimages = "a"\nmay_fail = "so"\n'
    )
    assert len(list(parse_matrix(text, "m").boots())) == 1
    for key in re.findall(r"(\w+) = ", text):
        assert re.search(rf"`{key}\b", PAGE), key
