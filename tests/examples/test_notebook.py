# SPDX-License-Identifier: MIT
"""The notebook: its cells, run in order by IPython as a kernel runs them, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "guest_memory.ipynb"
SHOWS = (
    r"0000000000-00001fffff      2 MiB  shared    held: 0 shared",
    r"\[IoOut\(port=233, .*data=b'H'\),",
    r"bound by another VM: EINVAL .*",
    r"mapped: Hlt\(\) 0x12345678",
    r"0000004000-0000004fff      4 KiB  private   held: 0 private, 4 KiB shared",
    r".*b'shared'",
    r"0000004000-0000004fff      4 KiB  private   held: 0 private",
    r"private: EFAULT .*",
    r"shared again: b'shared'",
    r"held: EAGAIN .*0x4000.*",
    r"converted",
    r"Hlt\(\) after 3 rings",
    r"<ioctl KVM_SET_MEMORY_ATTRIBUTES2 0xc080aed2 .*>",
    r"cannot issue KVM_SET_MEMORY_ATTRIBUTES2 .* the model, too, has no ioctls.*",
)
"""Lines that the cells show, in this order, with others between them."""


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """IPython as a kernel has it: no terminal, no history of the user's."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell.instance(config=config)
    yield made
    InteractiveShell.clear_instance()


@pytest.mark.slow
def test_the_cells_run_and_show_what_they_are_about(
    interpreter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(sources) > 8
    for source in sources:
        interpreter.run_cell(source).raise_error()
    lines = iter(capsys.readouterr().out.splitlines())
    for expected in SHOWS:
        found = (re.fullmatch(expected, line.removeprefix("Out[2]: ")) for line in lines)
        assert any(found), expected


def test_the_notebook_keeps_no_output() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (found["nbformat"], found["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert all(not cell.get("outputs") for cell in found["cells"])
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
