# SPDX-License-Identifier: MIT
"""Edits of a source tree: where they go, what does not fit, and that nothing changes before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.errors import ExitCode
from pyvmm.lab.kernel.failures import ChangeDoesNotFitError
from pyvmm.lab.kernel.source_editor import SourceEditor

TEXT = "int one;\nint two;\n\nvoid f(void)\n{\n\tone = 1;\n\tone = 1;\n}\n"


@pytest.fixture
def tree(tmp_path: Path) -> SourceEditor:
    (tmp_path / "virt").mkdir()
    (tmp_path / "virt/a.c").write_text(TEXT)
    return SourceEditor(tmp_path, "7.3.4", "some-change")


def edited(tree: SourceEditor, path: str = "virt/a.c") -> str:
    tree.write()
    return (tree.root / path).read_text()


def test_text_goes_right_before_and_behind_its_anchor(tree: SourceEditor) -> None:
    tree.after("virt/a.c", "int one;\n", "int between;\n")
    tree.before("virt/a.c", "void f(", "static ")
    tree.replace("virt/a.c", "int two;\n\n", "int three;\n\n")
    tree.after("virt/a.c", "int between;\n", "int later;\n")
    assert (tree.root / "virt/a.c").read_text() == TEXT, "nothing is written yet"
    assert tree.paths == ["virt/a.c"]
    assert edited(tree) == (
        "int one;\nint between;\nint later;\nint three;\n\nstatic void f(void)\n"
        "{\n\tone = 1;\n\tone = 1;\n}\n"
    )


def test_what_is_between_two_anchors_is_cut(tree: SourceEditor) -> None:
    tree.cut("virt/a.c", "int two;", "void f(")
    assert edited(tree).startswith("int one;\nvoid f(void)\n")


def test_new_files_get_their_folders(tree: SourceEditor) -> None:
    tree.create("virt/new/b.c", "int three;\n")
    tree.after("virt/new/b.c", "three", "four")
    assert edited(tree, "virt/new/b.c") == "int threefour;\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.c", "virt/../../a.c"])
def test_paths_outside_of_the_source_are_no_part_of_it(tree: SourceEditor, path: str) -> None:
    with pytest.raises(ChangeDoesNotFitError, match="is no path inside of the source"):
        tree.after(path, "x", "y")
    with pytest.raises(ChangeDoesNotFitError, match="is no path inside of the source"):
        tree.create(path, "y")


def test_a_hard_link_of_an_edited_file_stays_as_it_was(tree: SourceEditor) -> None:
    os.link(tree.root / "virt/a.c", tree.root / "same")
    tree.replace("virt/a.c", "int two", "int 2")
    assert "int 2" in edited(tree)
    assert (tree.root / "same").read_text() == TEXT
    assert sorted(path.name for path in (tree.root / "virt").iterdir()) == ["a.c"]


def test_bytes_that_are_no_utf_8_stay(tree: SourceEditor) -> None:
    (tree.root / "virt/a.c").write_bytes(b"/* Andr\xe9\r\n */\nint one;\n")
    tree.after("virt/a.c", "int one;\n", "int two;\n")
    tree.write()
    assert (tree.root / "virt/a.c").read_bytes() == b"/* Andr\xe9\r\n */\nint one;\nint two;\n"


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda t: t.after("virt/a.c", "int four;", "x"), "in virt/a.c, 'int four;' is not there"),
        (
            lambda t: t.replace("virt/a.c", "\tone = 1;\n", "x"),
            "in virt/a.c, 'one = 1;' is there 2 times",
        ),
        (lambda t: t.before("virt/a.c", "", "x"), "in virt/a.c, '' is not there"),
        (lambda t: t.before("virt/b.c", "one", "x"), "virt/b.c: No such file or directory"),
        (lambda t: t.before("virt", "one", "x"), "virt: Is a directory"),
        (lambda t: t.create("virt/a.c", "x"), "there is a virt/a.c already"),
        (lambda t: (t.create("b", "x"), t.create("b", "x")), "there is a b already"),
        (
            lambda t: t.cut("virt/a.c", "void f(", "int two;"),
            "virt/a.c has 'int two;' before 'void f('",
        ),
        (lambda t: t.after("virt/a.c", "x" * 100, ""), f"'{'x' * 57}...' is not there"),
    ],
    ids=["absent", "twice", "empty", "no-file", "folder", "exists", "again", "order", "long"],
)
def test_what_does_not_fit_is_one_line(
    tree: SourceEditor, edit: Callable[[SourceEditor], object], cause: str
) -> None:
    with pytest.raises(ChangeDoesNotFitError) as refused:
        edit(tree)
    assert cause in refused.value.cause
    assert refused.value.exit_code is ExitCode.HOST_LACKS
    text = str(refused.value)
    assert "make the change some-change to Linux 7.3.4" in text
    assert "\n" not in text
