# SPDX-License-Identifier: MIT
"""A kernel's selftests are compiled from its own source, and that is only read."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import packages
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.failures import KernelBuildError
from pyvmm.lab.kernel.manifest import Kernel, Manifest
from pyvmm.lab.kernel.selftests import (
    FOLDER,
    BuiltSelftests,
    PartEditor,
    build_selftests,
    require_seen,
)
from pyvmm.lab.kernel.source import Source, unpack
from pyvmm.lab.selftest_verdicts import choose
from tests.lab.kernel.conftest import MAKEFILE, Said

HEADERS = """\
headers:
\t@mkdir -p $(O)/usr/include
\t@cp kvm.h $(O)/usr/include/kvm.h
"""
PROGRAMS = """\
TEST_GEN_PROGS := $(addprefix $(OUTPUT)/,first_test x86/second_test broken_test)
all: $(TEST_GEN_PROGS)
TMPOUT = .tmp_$$$$
TRIED := $(shell mkdir -p $(TMPOUT) && touch $(TMPOUT)/../left && rm -r $(TMPOUT))
$(OUTPUT)/%: %.c
\t@mkdir -p $(@D)
\t@echo gcc -x -c $<
\t@if grep -n broken $<; then echo "$<:1:2: error: this is not C"; exit 1; fi
\t@cat $(word 2,$(KHDR_INCLUDES))/kvm.h $< > $@
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(packages, "ensure", lambda *_: None)
    return Cache(tmp_path / "cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    (folder / FOLDER / "x86").mkdir(parents=True)
    (folder / "Makefile").write_text(HEADERS)
    (folder / "kvm.h").write_text("headers\n")
    (folder / FOLDER / "Makefile").write_text(PROGRAMS)
    for name in ("first_test", "x86/second_test", "broken_test"):
        (folder / FOLDER / f"{name}.c").write_text(f"{name}\n")
    return folder


MANIFEST = Manifest("mine", "7.3.4", "source", "hash", "gcc", "vmlinux", "", 0, "", 0.0, 1)


def kernel_of(manifest: Manifest) -> Kernel:
    return Kernel("mine", Path("/no/vmlinux"), manifest)


def own_kernel(tree: Path) -> Kernel:
    return kernel_of(replace(MANIFEST, source=str(tree), tree=str(tree)))


def built(kernel: Kernel, cache: Cache, pattern: str, said: Said | None = None) -> BuiltSelftests:
    return build_selftests(kernel, partial(choose, pattern=pattern), cache, 1, said or Said())


def test_those_chosen_are_compiled_with_the_trees_headers(cache: Cache, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    kernel = own_kernel(tree)
    found = built(kernel, cache, "*[td]_test")
    assert found.names == ("first_test", "x86/second_test")
    assert (found.folder / "x86/second_test").read_text() == "headers\nx86/second_test\n"
    assert not (found.folder / "broken_test").exists()
    assert sorted(tree.rglob("*")) == before, "a user's tree is only read"
    times = [(found.folder / name).stat().st_mtime_ns for name in found.names]
    (tree / "kvm.h").write_text("changed\n")
    assert built(kernel, cache, "*[td]_test") == found
    assert [(found.folder / name).stat().st_mtime_ns for name in found.names] == times
    (found.folder / "first_test").unlink()
    built(kernel, cache, "first")
    assert (found.folder / "first_test").read_text() == "changed\nfirst_test\n"


def test_selftests_of_trees_of_one_name_are_side_by_side(
    cache: Cache, tree: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "linux"
    shutil.copytree(tree, other)
    first, second = (built(own_kernel(each), cache, "first") for each in (tree, other))
    assert first.folder != second.folder
    assert (first.folder / "first_test").exists()
    shutil.rmtree(tree)
    built(own_kernel(other), cache, "first")
    assert not first.folder.exists()


def test_what_does_not_compile_is_told_in_a_line(cache: Cache, tree: Path) -> None:
    with pytest.raises(KernelBuildError) as caught:
        built(own_kernel(tree), cache, "broken")
    assert "broken_test.c:1:2: error: this is not C" in caught.value.cause
    log = next(cache.root.glob("selftests/mine-*/make.log"))
    assert str(log) in caught.value.cause
    assert "this is not C" in log.read_text()
    assert "correct it there" in caught.value.remedy


def test_a_name_that_none_has(cache: Cache, tree: Path) -> None:
    with pytest.raises(UsageError, match="none of its 3 has such a name"):
        built(own_kernel(tree), cache, "third")


@pytest.mark.parametrize(
    ("manifest", "cause", "remedy"),
    [
        (replace(MANIFEST, tree="/no/such"), "/no/such has no tools/testing", "put it back"),
        (replace(MANIFEST, config_hash=""), "without its source", "pyvmm lab build"),
        (replace(MANIFEST, source="linux.tar.xz (12)"), "is not kept", "--source DIR"),
        (
            replace(MANIFEST, source="linux-source-7.3 7.3.4-1"),
            "7.3.4-1, is not in",
            "--kernel mine --again",
        ),
        (
            replace(MANIFEST, source="linux-source-7.3 1 with x", change="x"),
            "is not in",
            "--with mine --again",
        ),
    ],
    ids=["tree", "taken-over", "tarball", "package", "change"],
)
def test_a_source_that_is_not_there(
    cache: Cache, manifest: Manifest, cause: str, remedy: str
) -> None:
    with pytest.raises(HostLacksError) as caught:
        built(kernel_of(manifest), cache, "")
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_a_cache_that_the_lab_does_not_see() -> None:
    with pytest.raises(UsageError, match=r"a lab has a /dev/shm of its own.*XDG_CACHE_HOME"):
        require_seen(Cache(Path("/dev/shm/x")), "run")
    require_seen(Cache(Path("/home/x")), "run")


def test_members_are_unpacked_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "linux.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("Makefile", "Kconfig", "fs/Kconfig", f"{FOLDER}/x86/a.c", "kernel/fork.c"):
            data = MAKEFILE.encode()
            info = tarfile.TarInfo(f"linux-7.3.4/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as lock:
        children = Children(lock.fileno(), tmp_path / "log")
        source = Source("linux", "7.3.4", archive)
        members = ("*/Makefile", "*/Kconfig", "*/tools/testing/selftests")
        folder = unpack(source, tmp_path / "tree", children, Said(), members)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"Makefile", "Kconfig", f"{FOLDER}/x86/a.c", ".pyvmm-unpacked"}


def test_a_change_is_made_to_the_part_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "kvm.h").write_text("one\nthree\n")
    editor = PartEditor(tmp_path, "7.3.4", "x")
    editor.after("kvm.h", "one\n", "two\n")
    editor.before("kvm.h", "one\n", "nought\n")
    editor.replace("kvm.h", "three", "3")
    for edit in (editor.after, editor.before, editor.replace, editor.cut):
        edit("virt/kvm/kvm_main.c", "anchor", "text")
    editor.create("new.h", "new\n")
    editor.after("new.h", "new\n", "more\n")
    editor.write()
    assert (tmp_path / "kvm.h").read_text() == "nought\none\ntwo\n3\n"
    assert (tmp_path / "new.h").read_text() == "new\nmore\n"
    assert not (tmp_path / "virt").exists()
