# SPDX-License-Identifier: MIT
"""Sources: recognised, unpacked without what is not needed, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.errors import NoInputError, UsageError
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.failures import KernelBuildError
from pyvmm.lab.kernel.source import from_path, kernel_version, unpack
from tests.lab.kernel.conftest import MAKEFILE, Said, source_tarball


def make_tree(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "Kconfig").write_text("")
    (folder / "fork.c").write_text("int x;")
    return folder


def test_a_tree_says_its_version(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "linux")
    assert kernel_version(tree, "try") == "7.3.4"
    (tree / "Makefile").write_text(MAKEFILE.replace("EXTRAVERSION =", "EXTRAVERSION = -rc1"))
    assert kernel_version(tree, "try") == "7.3.4-rc1"


@pytest.mark.parametrize("text", ["", "VERSION = 7\n", "VERSION = x\nPATCHLEVEL = 1\nSUBLEVEL = 1"])
def test_a_folder_that_is_no_kernel(tmp_path: Path, text: str) -> None:
    (tmp_path / "Makefile").write_text(text)
    with pytest.raises(UsageError, match="not the source of a Linux kernel"):
        kernel_version(tmp_path, "try")
    (tmp_path / "Makefile").unlink()
    with pytest.raises(UsageError, match="no readable Makefile"):
        kernel_version(tmp_path, "try")
    with pytest.raises(NoInputError):
        from_path(tmp_path / "nowhere")


def test_a_tarball_is_unpacked_without_what_is_not_needed(tmp_path: Path, said: Said) -> None:
    archive = tmp_path / "linux.tar.xz"
    left_out = (
        "arch/arm64/kernel/a.c", "drivers/gpu/drm/a/b.h", "drivers/net/wireless/x.c",
        "Documentation/a/b.rst", "sound/x.c", "tools/perf/x.c",
    )  # fmt: skip
    kept = (
        "arch/x86/kernel/a.c", "arch/Kconfig", "drivers/gpu/drm/Kconfig", "drivers/net/tun.c",
        "Documentation/Kconfig", "tools/objtool/a.c", "tools/arch/x86/a.h", "include/drm/x.h",
        "sound/Kconfig", "drivers/net/wireless/Makefile", "scripts/x.c",
    )  # fmt: skip
    archive.write_bytes(source_tarball(dict.fromkeys((*left_out, *kept), "x")))
    source = from_path(archive)
    children = Children(0, tmp_path / "log")
    tree = unpack(source, tmp_path / "tree", children, said)
    assert [name for name in left_out if (tree / name).exists()] == []
    assert [name for name in kept if not (tree / name).exists()] == []
    assert said.stages == [("unpacking linux.tar.xz", archive.stat().st_size)]
    assert said.reached[-1] == archive.stat().st_size
    assert unpack(source, tree, children, said) == tree
    assert len(said.stages) == 1, "unpacked once"


def test_half_an_unpacked_tree_is_unpacked_anew(tmp_path: Path, said: Said) -> None:
    archive = tmp_path / "linux.tar.xz"
    archive.write_bytes(source_tarball())
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "leftover").write_text("")
    unpack(from_path(archive), tree, Children(0, tmp_path / "log"), said)
    assert not (tree / "leftover").exists()
    assert (tree / "Makefile").exists()


@pytest.mark.parametrize("cut", [0, 100, -60])
def test_a_broken_tarball_is_one_line(tmp_path: Path, said: Said, cut: int) -> None:
    archive = tmp_path / "linux.tar.xz"
    archive.write_bytes(source_tarball({"x": "".join(map(str, range(9999)))})[:cut])
    with pytest.raises(KernelBuildError, match="unpack"):
        unpack(from_path(archive), tmp_path / "tree", Children(0, tmp_path / "log"), said)
    archive.write_bytes(b"this is no archive at all")
    with pytest.raises(KernelBuildError, match="unpack"):
        unpack(from_path(archive), tmp_path / "tree", Children(0, tmp_path / "log"), said)
