# SPDX-License-Identifier: MIT
"""Kernels of somebody's own tree: compiled on from last time, never chosen by default."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pyvmm.cli import lab_build
from pyvmm.cli.main import _Parser
from pyvmm.errors import HostLacksError, NoInputError, UsageError
from pyvmm.lab.kernel import find
from pyvmm.lab.kernel.building import BuildRequest, build
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.configuration import lab_fragment
from pyvmm.lab.kernel.failures import KernelBuildError
from tests.lab.kernel.conftest import MAKEFILE, FakeHost, Said, fake_vmlinux, source_tarball


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    (folder / "kernel").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "Kconfig").write_text("")
    (folder / "kernel/fork.c").write_text("int one;\n")
    return folder


def command_line(*words: str) -> int:
    parser = _Parser()
    lab_build.add_arguments(parser)
    return lab_build.command(parser.parse_args(words))


def compiled(capsys: pytest.CaptureFixture[str]) -> str:
    """How many files the last command said that it compiled."""
    return capsys.readouterr().err.partition("at a time: done (")[2].partition(",")[0]


def test_what_has_changed_is_compiled_and_the_tree_is_only_read(
    host: FakeHost, cache: Cache, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tarball = tmp_path / "linux.tar.xz"
    tarball.write_bytes(source_tarball())
    plain = build(BuildRequest(2, source=tarball), cache, Said())
    before = sorted(tree.rglob("*"))
    assert command_line("--source", str(tree)) == 0
    assert compiled(capsys) == "4 files"
    first = find("linux")
    assert first.manifest.tree == str(tree)
    assert first.manifest.version == "7.3.4"
    assert sorted(tree.rglob("*")) == before
    assert find() == plain, "nobody gets it without asking"
    assert plain.path.exists()
    assert command_line("--source", str(tree)) == 0
    assert compiled(capsys) == "0 files"
    assert find("linux") == first
    (host.folder / "vmlinux").write_bytes(fake_vmlinux() + b"changed")
    (tree / "kernel/fork.c").write_text("int two;\n")
    later = (cache.root / "lock").stat().st_mtime + 10
    os.utime(tree / "kernel/fork.c", (later, later))
    assert command_line("--source", str(tree)) == 0
    assert compiled(capsys) == "1 files"
    second = find("linux")
    assert second.path != first.path, "a lab that runs the first does not pass for one of this"
    assert not first.path.exists()


def test_kconfig_is_asked_again_where_a_file_of_it_has_changed(
    host: FakeHost, cache: Cache, tree: Path, tmp_path: Path
) -> None:
    def asked(*words: str) -> bool:
        before = len(host.calls())
        assert command_line("--source", str(tree), *words) == 0
        return "allnoconfig" in host.calls()[before:]

    (tree / "virt").mkdir()
    (tree / "virt/Kconfig").write_text("")
    assert asked()
    assert asked(), "nothing is known of its files yet"
    (objects,) = cache.trees.glob("*/objects")
    noted = objects / "include/config/auto.conf.cmd"
    noted.parent.mkdir(parents=True)
    noted.write_text("deps_config := \\\n\tKconfig \\\n\tvirt/Kconfig \\\n\nifneq x\nendif\n")
    assert not asked()
    later = (cache.root / "lock").stat().st_mtime + 10
    os.utime(tree / "virt/Kconfig", (later, later))
    assert asked()
    os.utime(tree / "virt/Kconfig", (1, 1))
    assert not asked()
    more = tmp_path / "more.config"
    more.write_text("CONFIG_PROVE_LOCKING=y\n")
    assert asked("--config", str(more))
    assert not asked("--config", str(more))
    (tree / "virt/Kconfig").unlink()
    assert asked("--config", str(more))


def test_trees_of_two_names_are_side_by_side(host: FakeHost, cache: Cache, tree: Path) -> None:
    assert command_line("--source", str(tree), "--name", "mine") == 0
    assert command_line("--source", str(tree), "--name", "mine-debug") == 0
    assert sorted(manifest.name for _, manifest in cache.entries()) == ["mine", "mine-debug"]
    with pytest.raises(HostLacksError, match=r"none is built \(there are: mine,mine-debug\)"):
        find()


def test_trees_whose_folders_have_one_name_keep_their_objects(
    host: FakeHost, cache: Cache, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "linux"
    shutil.copytree(tree, other)
    assert command_line("--source", str(tree)) == 0
    assert "was that of" not in capsys.readouterr().err
    assert command_line("--source", str(other)) == 0
    assert f"kernel linux was that of {tree}, whose objects stay" in capsys.readouterr().err
    assert find("linux").manifest.tree == str(other)
    assert command_line("--source", str(tree)) == 0
    assert compiled(capsys) == "0 files", "its objects are there still"
    assert find("linux").manifest.tree == str(tree)
    assert len(list(cache.trees.iterdir())) == 2
    shutil.rmtree(other)
    assert command_line("--source", str(tree)) == 0
    assert len(list(cache.trees.iterdir())) == 1, "without their tree they are of no use"


def test_fragments_go_on_top(
    host: FakeHost,
    cache: Cache,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = tmp_path / "one.config", tmp_path / "two.config"
    one.write_text("CONFIG_PROVE_LOCKING=y\n# CONFIG_KVM_IOAPIC is not set\n\n# a word\n")
    two.write_text("CONFIG_KASAN=y\n")
    words = ("--source", str(tree), "--config", str(one), "--config", str(two))
    monkeypatch.setenv("FAKE_DROPPED", "CONFIG_KASAN")
    with pytest.raises(
        KernelBuildError, match="does not take CONFIG_KASAN; take it out of the fragment"
    ):
        command_line(*words)
    monkeypatch.delenv("FAKE_DROPPED")
    assert command_line(*words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tree"] == str(tree)
    assert answer["config_hash"] == lab_fragment().hash, "it counts as long as the lab's own does"
    (kept,) = cache.trees.iterdir()
    lines = (kept / "objects/.config").read_text().splitlines()
    assert lines[0] == lab_fragment().text.splitlines()[0]
    assert lines.index("CONFIG_PROVE_LOCKING=y") < lines.index("CONFIG_KASAN=y")
    assert lines.index("CONFIG_KVM_IOAPIC=y") < lines.index("# CONFIG_KVM_IOAPIC is not set")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("CONFIG_A=y\nCONFIG B\n", "line 2 is no option: 'CONFIG B'; write CONFIG_NAME=y"),
        ("# nothing\n", "there is no option in it"),
        ("\xff", "it is not text"),
    ],
    ids=["line", "empty", "bytes"],
)
def test_what_is_no_fragment(
    host: FakeHost, tree: Path, tmp_path: Path, text: str, cause: str
) -> None:
    path = tmp_path / "x.config"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=cause):
        command_line("--source", str(tree), "--config", str(path))
    with pytest.raises(NoInputError, match="No such file"):
        command_line("--source", str(tree), "--config", str(tmp_path / "none"))
    assert host.calls() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "7.3"), "cannot be called '7.3': that is the name of a release; use --name"),
        (("--name", "../x"), "a name has letters"),
        (("--kernel", "7.3"), "--kernel does not go with the source in a folder; call"),
    ],
)
def test_what_cannot_be(host: FakeHost, tree: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command_line("--source", str(tree), *words)
    assert host.calls() == []


def test_names_and_fragments_are_for_folders(host: FakeHost, tmp_path: Path) -> None:
    for words in (("--name", "x"), ("--config", "x")):
        with pytest.raises(UsageError, match="are for the source in a folder"):
            command_line(*words)
    with pytest.raises(UsageError, match="no readable Makefile"):
        command_line("--source", str(tmp_path), "--name", "x")


@pytest.mark.parametrize("what", [".config", "include/config/auto.conf"])
def test_a_tree_that_was_built_in_itself(host: FakeHost, tree: Path, what: str) -> None:
    (tree / what).parent.mkdir(parents=True, exist_ok=True)
    (tree / what).write_text("")
    with pytest.raises(UsageError, match=r"built in itself \(.*run make mrproper in it"):
        command_line("--source", str(tree))
    assert host.calls() == []


def test_the_first_error_is_said_however_much_follows(
    host: FakeHost, cache: Cache, tree: Path
) -> None:
    host.script(
        "make",
        'case "$*" in *allnoconfig) for w; do case $w in O=*) o=${w#O=};; KCONFIG_ALLCONFIG=*) '
        'c=${w#*=};; esac; done; cp "$c" "$o/.config"; exit 0;; esac\n'
        "echo '/a/arch/x86/kvm/../../../virt/kvm/a.c:7:1: error: the first'\n"
        "echo 'virt/kvm/b.c:9:1: error: the second'\n"
        "for n in $(seq 100); do echo \"  CC      $n.o\"; done; echo 'make: *** Error 2'; exit 2\n",
    )
    with pytest.raises(
        KernelBuildError, match=r"status 2: /a/virt/kvm/a\.c:7:1: error: the first \(all"
    ):
        command_line("--source", str(tree))
    assert cache.entries() == []
