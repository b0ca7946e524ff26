# SPDX-License-Identifier: MIT
"""Kernels with a change: beside the plain one, from its objects, and only if the change fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.cli import lab_build
from pyvmm.cli.main import _Parser
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import find, known_changes
from pyvmm.lab.kernel.building import BuildRequest, build
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.failures import ChangeDoesNotFitError, KernelBuildError
from pyvmm.lab.kernel.known_changes import Change
from pyvmm.lab.kernel.source_editor import SourceEditor
from tests.lab.kernel.conftest import FakeHost, Said, source_tarball

FORK = "kernel/fork.c"


def add_a_line(tree: SourceEditor) -> None:
    tree.after(FORK, "int one;\n", "int changed;\n")


CHANGE = Change("some-change", "7.3", "for tests", "d1", add_a_line)


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(source_tarball({FORK: "int one;\n"}))
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Have changes be known, under their names, instead of the project's."""

    def know(change: Change) -> None:
        monkeypatch.setattr(known_changes, "names", lambda: [change.name])
        monkeypatch.setattr(known_changes, "named", lambda _: change)

    return know


@pytest.fixture
def request_(tarball: Path) -> BuildRequest:
    return BuildRequest(2, source=tarball, change=CHANGE)


def plain(request: BuildRequest) -> BuildRequest:
    return replace(request, change=None)


def test_it_is_built_from_the_plain_ones_objects_and_beside_it(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    known: Callable[[Change], None],
) -> None:
    known(CHANGE)
    first = build(plain(request_), cache, said)
    said.reached.clear()
    changed = build(request_, cache, said)
    assert (changed.name, changed.manifest.version) == ("some-change", "7.3.4")
    assert changed.manifest.change == "some-change (d1)"
    assert changed.manifest.source.startswith("linux.tar.xz (")
    assert changed.manifest.source.endswith(") with some-change (d1)")
    assert changed.manifest.objects == 1, "the one whose source has changed"
    assert said.reached[-2:] == [0, 1]
    assert host.calls() == ["allnoconfig", "vmlinux", "vmlinux"], "not configured again"
    assert (host.folder / "tools-made").read_text() == "tools\n", "all objects depend on them"
    assert first.path.exists()
    assert find(root=cache.root) == first, "nobody gets a changed one without asking"
    assert find("7.3", root=cache.root) == first
    assert find("some-change", root=cache.root) == changed
    assert build(request_, cache, said) == changed
    assert build(BuildRequest(2, change=CHANGE), cache, said) == changed, "without a network"
    assert build(BuildRequest(2), cache, said) == first
    assert len(host.calls()) == 3
    (kept,) = cache.trees.iterdir()
    assert (kept / "source" / FORK).read_text() == "int one;\n"
    assert list(cache.work.iterdir()) == []


def test_a_change_has_the_plain_kernel_built_first(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    build(request_, cache, said)
    assert sorted(manifest.name for _, manifest in cache.entries()) == ["7.3", "some-change"]
    assert host.calls() == ["allnoconfig", "vmlinux", "vmlinux"]
    # And again where the kernel is there, but what it was made of is gone.
    shutil.rmtree(cache.trees)
    other = replace(CHANGE, name="other-change")
    build(replace(request_, change=other), cache, said)
    assert sorted(manifest.name for _, manifest in cache.entries()) == [
        "7.3", "other-change", "some-change",
    ]  # fmt: skip
    assert host.calls()[3:] == ["allnoconfig", "vmlinux", "vmlinux"]
    assert len([title for title, _ in said.stages if "unpack" in title]) == 2


def test_one_that_does_not_fit_is_refused_before_anything_is_compiled(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    def misfit(tree: SourceEditor) -> None:
        tree.after(FORK, "int one;\n", "int changed;\n")
        tree.after(FORK, "int two;\n", "")

    with pytest.raises(
        ChangeDoesNotFitError,
        match=r"change some-change to Linux 7\.3\.4: in kernel/fork\.c, 'int two;' is not there",
    ):
        build(replace(request_, change=replace(CHANGE, make=misfit)), cache, said)
    assert host.calls() == []
    assert cache.entries() == []
    assert build(plain(request_), cache, said).name == "7.3"
    (kept,) = cache.trees.iterdir()
    assert (kept / "source" / FORK).read_text() == "int one;\n"


def test_a_change_that_does_not_compile_says_where_and_harms_nothing(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = build(plain(request_), cache, said)
    monkeypatch.setenv("FAKE_DISLIKED", "changed")
    for _ in range(2):
        with pytest.raises(
            KernelBuildError, match=r"kernel/fork\.c:3:1: error: this is not liked.*make\.log"
        ):
            build(request_, cache, said)
    assert [manifest.name for _, manifest in cache.entries()] == ["7.3"]
    with pytest.raises(HostLacksError):
        find("some-change", root=cache.root)
    assert build(plain(request_), cache, said) == first
    # Its next text begins anew, and what the first has left goes away with it.
    better = replace(CHANGE, digest="d2", make=lambda tree: tree.after(FORK, "one;\n", "int y;\n"))
    assert build(replace(request_, change=better), cache, said).manifest.change.endswith("(d2)")
    assert list(cache.work.iterdir()) == []
    assert len([title for title, _ in said.stages if title.startswith("copying")]) == 2


def test_an_interrupted_one_goes_on(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build(plain(request_), cache, said)
    host.script("cp", "exit 1")
    with pytest.raises(KernelBuildError, match="cp ended with status 1"):
        build(request_, cache, said)
    (host.folder / "bin" / "cp").unlink()
    monkeypatch.setenv("FAKE_FAILS_AT", "one")
    with pytest.raises(KernelBuildError):
        build(request_, cache, said)
    monkeypatch.delenv("FAKE_FAILS_AT")
    before = len(said.stages)
    assert build(request_, cache, said).name == "some-change"
    assert not [title for title, _ in said.stages[before:] if title.startswith("copying")]


def test_another_text_of_a_change_makes_another_kernel(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    known: Callable[[Change], None],
) -> None:
    first = build(request_, cache, said)
    newer = replace(CHANGE, digest="d2")
    known(newer)
    with pytest.raises(
        HostLacksError, match=r"or another change,.*run pyvmm lab build --with some-change$"
    ):
        find("some-change", root=cache.root)
    second = build(replace(request_, change=newer), cache, said)
    assert find("some-change", root=cache.root) == second
    assert not first.path.exists(), "one of a name is enough"
    assert find(root=cache.root).name == "7.3"


def test_a_newer_plain_kernel_takes_the_place_of_what_was_kept(
    host: FakeHost, cache: Cache, said: Said, tmp_path: Path, request_: BuildRequest
) -> None:
    build(replace(plain(request_), name="7.3"), cache, said)
    (first,) = cache.trees.iterdir()
    newer = tmp_path / "newer.tar.xz"
    newer.write_bytes(source_tarball({FORK: "int one;\nint two;\n"}))
    build(BuildRequest(2, name="7.3", source=newer), cache, said)
    (second,) = cache.trees.iterdir()
    assert second != first
    assert len(cache.entries()) == 1


def command_line(*words: str) -> int:
    parser = _Parser()
    lab_build.add_arguments(parser)
    return lab_build.command(parser.parse_args(words))


def test_the_command(
    host: FakeHost,
    tarball: Path,
    known: Callable[[Change], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    known(CHANGE)
    assert command_line("--with", "some-change", "--source", str(tarball)) == 0
    assert capsys.readouterr().out == f"some-change  Linux 7.3.4  {find('some-change').path}\n"
    with pytest.raises(UsageError, match=r"build it --with some-change$"):
        command_line("--kernel", "some-change")
    with pytest.raises(UsageError, match=r"leave out --with$"):
        command_line("--kernel", str(tarball), "--with", "some-change")
    with pytest.raises(UsageError, match="--with does not go with the source in a folder; name a"):
        command_line("--source", str(host.folder), "--with", "some-change")


def test_a_name_that_is_none_is_told_which_there_are(host: FakeHost) -> None:
    with pytest.raises(UsageError, match=r"change 'nothing': there is none .*; there are: \S"):
        command_line("--with", "nothing")


def test_each_change_of_ours_says_what_it_is() -> None:
    for name in known_changes.names():
        change = known_changes.named(name)
        assert change.name == name
        assert change.fits.count(".") == 1, name
        assert change.about, name
        assert "\n" not in change.about, name
        assert len(change.digest) == 16
