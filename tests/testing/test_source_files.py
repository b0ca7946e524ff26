# SPDX-License-Identifier: MIT
"""Source files that guests name: only those of the tests' own trees are shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm.testing.images.source_files import MOST_BYTES, MOST_COLUMNS, SourceFiles
from pyvmm.testing.results.guest_failures import find_failures
from pyvmm.testing.session.guest_longrepr import failure_repr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root folder, a tree that an image was built in beside it, and what is none of theirs."""
    for name in ("root/x.c", "root/.env", "built/lib/y.c", "built/.git/config", "secret/key"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"line of {name}\n")
    (tmp_path / "built/arch/boot").mkdir(parents=True)
    (tmp_path / "root/out").symlink_to(tmp_path / "secret")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root/loop")
    (tmp_path / "root/in.c").symlink_to("x.c")
    os.mkfifo(tmp_path / "root/pipe")
    return tmp_path


def sources(tree: Path) -> SourceFiles:
    return SourceFiles(tree / "built/arch/boot/image", tree / "root")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x.c", "root/x.c"),
        ("in.c", "root/x.c"),
        ("lib/y.c", "built/lib/y.c"),
        ("../../lib/y.c", "built/lib/y.c"),
        ("{tree}/built/lib/y.c", "built/lib/y.c"),
        ("{tree}/secret/key", None),
        ("secret/key", None),
        ("../secret/key", None),
        ("out/key", None),
        ("{tree}/root/out/key", None),
        (".env", None),
        ("{tree}/built/.git/config", None),
        ("../../../../../../../../../../../../etc/passwd", None),
        ("/etc/passwd", None),
        ("etc/passwd", None),
        ("loop", None),
        ("pipe", None),
        ("lib", None),
        ("", None),
        ("a\0b", None),
        ("a" * 5000, None),
    ],
)
def test_files_of_the_tests_trees_are_found(tree: Path, name: str, found: str | None) -> None:
    expected = None if found is None else tree.resolve() / found
    assert sources(tree).find(name.format(tree=tree)) == expected


def test_the_file_system_as_a_whole_is_no_tree(tmp_path: Path) -> None:
    assert Path("/etc/passwd").is_file()
    assert SourceFiles(Path("/image"), Path("/")).find("etc/passwd") is None


def shown(tree: Path, *lines: str) -> str:
    failures = find_failures(lines)
    assert failures
    return str(failure_repr("it failed", failures, ("image", 1), sources(tree)))


def test_no_line_of_another_file_is_in_a_report(tree: Path) -> None:
    assert "line of root/x.c" in shown(tree, "# x: FAILED at x.c:1: boo")
    for name in ("../../../secret/key", str(tree / "secret/key"), "out/key", ".env"):
        assert "line of" not in shown(tree, f"# x: FAILED at {name}:1: boo")
        assert "line of" not in shown(tree, f"# x: EXPECTATION FAILED at {name}:1")


def test_what_is_read_and_shown_of_a_file_is_bounded(tree: Path) -> None:
    path = tree / "root/x.c"
    path.write_bytes(b"y" * (MOST_COLUMNS + 1) + b"\n" * (MOST_BYTES - MOST_COLUMNS - 1))
    text = shown(tree, "# x: FAILED at x.c:1: boo")
    assert "y" * MOST_COLUMNS in text
    assert "y" * (MOST_COLUMNS + 1) not in text
    with path.open("ab") as file:
        file.write(b"\n")
    assert "yy" not in shown(tree, "# x: FAILED at x.c:1: boo")


def test_a_file_is_read_once(tree: Path) -> None:
    kept = sources(tree)
    path = kept.find("x.c")
    assert path is not None
    before = kept.lines(path)
    path.write_text("another\n")
    assert kept.find("x.c") == path
    assert kept.lines(path) == before == ["line of root/x.c"]
