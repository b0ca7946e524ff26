# SPDX-License-Identifier: MIT
"""`pyvmm lab build` from end to end, with a make and a compiler that only pretend."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from pyvmm.cli import lab_build
from pyvmm.cli.main import _Parser
from pyvmm.errors import HostLacksError, ImageError, PyvmmError, UsageError
from pyvmm.lab.kernel import building, find, packages, places
from pyvmm.lab.kernel.building import BuildRequest, build, take_over
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.failures import KernelBuildError
from pyvmm.lab.kernel.manifest import Kernel
from pyvmm.lab.kernel.own_tree import OwnTree
from tests.lab.kernel.conftest import FakeHost, Said, fake_bzimage, fake_vmlinux, source_tarball


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    path = tmp_path / "linux.tar.xz"
    path.write_bytes(source_tarball())
    return path


@pytest.fixture
def request_(tarball: Path) -> BuildRequest:
    return BuildRequest(jobs=2, source=tarball)


def test_a_kernel_is_built_once(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    kernel = build(request_, cache, said)
    assert kernel.name == "7.3"
    assert kernel.manifest.version == "7.3.4"
    assert kernel.manifest.objects == 4
    assert kernel.manifest.compiler == "gcc (Fake) 12.2.0"
    assert kernel.path.read_bytes() == fake_vmlinux()
    assert host.calls() == ["allnoconfig", "vmlinux"]
    assert list(cache.work.iterdir()) == [], "nothing of the work is left"
    assert build(request_, cache, said) == kernel
    assert build(BuildRequest(2, name="7.3"), cache, said) == kernel, "found without a network"
    assert build(BuildRequest(2), cache, said) == kernel
    assert host.calls() == ["allnoconfig", "vmlinux"]
    assert find(root=cache.root) == kernel


@pytest.mark.parametrize(
    "name", ["a b", "a:b", "a\tb", "a\nb", "a'b", 'a"b', "a%b", "a#b", "a$b", "a,b"]
)
@pytest.mark.parametrize("what", ["cache", "source"])
def test_where_the_kernel_cannot_be_built_nothing_is_begun(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Makefiles refuse spaces and colons themselves, but late."""
    monkeypatch.setenv("PATH", str(tmp_path))  # There is no make, no compiler, and no apt.
    odd = tmp_path / name
    odd.mkdir()
    cache = Cache(odd if what == "cache" else tmp_path / "cache")
    request = BuildRequest(jobs=1, own=OwnTree(odd, "mine") if what == "source" else None)
    with pytest.raises(UsageError, match="the kernel's build does not work in ") as refused:
        build(request, cache, Said())
    # The tests' own folder may be such a one, too.
    cannot_be_the_cache = what == "cache" or places._NOT_PLAIN.search(str(tmp_path))
    assert refused.value.remedy == (
        "set XDG_CACHE_HOME to another folder" if cannot_be_the_cache else "move it"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_another_compiler_makes_another_kernel(
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = build(request_, cache, said)
    monkeypatch.setenv("FAKE_GCC", "gcc (Fake) 13")
    assert build(request_, cache, said).path != first.path
    assert not first.path.exists(), "one of a name is enough"


def test_a_damaged_entry_is_built_again_and_that_is_said(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    kernel = build(request_, cache, said)
    kernel.path.write_bytes(b"oh")
    assert build(request_, cache, said).path.read_bytes() == fake_vmlinux()
    kernel.path.write_bytes(b"oh")
    said.lines.clear()
    with pytest.raises(PyvmmError):
        # By name the source would come from Debian, which has none here: but it said why it looks.
        build(BuildRequest(2, name="7.3"), cache, said)
    assert len(said.lines) == 1
    assert "damaged" in said.lines[0]


def test_options_that_kconfig_drops_are_named(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_DROPPED", "CONFIG_KVM_SW_PROTECTED_VM")
    with pytest.raises(KernelBuildError, match="does not take CONFIG_KVM_SW_PROTECTED_VM"):
        build(request_, cache, said)
    monkeypatch.setenv("FAKE_DROPPED", "CONFIG_KVM_IOAPIC")
    assert build(request_, cache, said).name == "7.3", "one of those below 'where known'"


def test_a_build_that_fails_says_why_and_the_next_goes_on(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_FAILS_AT", "three")
    with pytest.raises(KernelBuildError, match=r"three\.c:1:2: error: this is not C.*make\.log"):
        build(request_, cache, said)
    with pytest.raises(HostLacksError):
        find(root=cache.root)
    monkeypatch.delenv("FAKE_FAILS_AT")
    said.reached.clear()
    assert build(request_, cache, said).manifest.objects == 4
    assert said.reached[-3:] == [2, 3, 4], "two files were there already"
    assert host.calls() == ["allnoconfig", "vmlinux", "vmlinux"], "not configured again"
    assert len([title for title, _ in said.stages if "unpack" in title]) == 1


def test_a_kernel_that_qemu_could_not_start_is_not_kept(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    (host.folder / "vmlinux").write_bytes(fake_vmlinux(note=b""))
    with pytest.raises(ImageError, match="PVH"):
        build(request_, cache, said)
    assert cache.entries() == []


Usage = namedtuple("Usage", "free")


def test_too_little_space_is_said_before_anything_is_done(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 << 20))
    with pytest.raises(HostLacksError, match=r"needs 1\.2 GiB in .* 0\.1 GiB are free; make room"):
        build(request_, cache, said)
    assert host.calls() == []


def test_a_disk_that_fills_up_is_said_as_that(
    host: FakeHost, cache: Cache, said: Said, request_: BuildRequest
) -> None:
    host.script("make", "echo 'fatal error: x.s: No space left on device'; exit 2")
    with pytest.raises(HostLacksError, match=r"no space is left in .* goes on where it was"):
        build(request_, cache, said)


def test_missing_packages_are_named(
    host: FakeHost,
    cache: Cache,
    said: Said,
    request_: BuildRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_NO_HEADER", "gelf.h")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostLacksError, match=r"lacks .*: libelf-dev; install"):
        build(request_, cache, said)
    monkeypatch.setenv("PATH", "/nowhere")
    assert packages.missing() == [
        "gcc", "binutils", "make", "flex", "bison", "bc", "tar", "xz-utils", "libc6-dev",
        "libelf-dev",
    ]  # fmt: skip


def test_root_on_debian_gets_missing_packages(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.setenv("FAKE_NO_HEADER", "gelf.h")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostLacksError, match="still lacks libelf-dev"):
        packages.ensure(said.say)
    assert any(call.endswith("--no-install-recommends libelf-dev") for call in host.calls())
    host.script("apt-get", "echo 'E: dpkg was interrupted'; exit 100")
    with pytest.raises(HostLacksError, match="update failed: E: dpkg was interrupted"):
        packages.ensure(said.say)


def test_a_users_kernel_is_taken_over_after_it_proved_itself(
    host: FakeHost, cache: Cache, said: Said, tmp_path: Path
) -> None:
    path = tmp_path / "mine"
    path.write_bytes(fake_bzimage())

    def refuse(_: Path) -> dict[str, int]:
        raise HostLacksError("use it", "it has no private memory")

    with pytest.raises(HostLacksError, match="no private memory"):
        take_over(path, cache, said, refuse)
    assert cache.entries() == []
    kernel = take_over(path, cache, said, lambda _: {"VM_TYPES": 3})
    assert kernel.name == "6.18.2-mine"
    assert kernel.manifest.offers == {"VM_TYPES": 3}
    assert kernel.path.read_bytes() == path.read_bytes()
    assert find("6.18.2-mine", root=cache.root) == kernel
    assert find(root=cache.root) == kernel
    path.unlink()
    assert list(cache.work.iterdir()) == []


def command_line(*words: str) -> int:
    parser = _Parser()
    lab_build.add_arguments(parser)
    return lab_build.command(parser.parse_args(words))


def test_the_command_prints_one_line_or_json(
    host: FakeHost, cache: Cache, tarball: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line("--source", str(tarball), "--jobs", "1") == 0
    out, err = capsys.readouterr()
    assert out == f"7.3  Linux 7.3.4  {find().path}\n"
    assert "compiling, 1 at a time: done (4 files" in err
    assert command_line("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(find().path)
    assert answer["sha256"] == find().manifest.sha256


def test_the_command_takes_a_file(host: FakeHost, tmp_path: Path, tarball: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(fake_bzimage())
    with pytest.raises(UsageError, match="leave out --source"):
        command_line("--kernel", str(path), "--source", str(tarball))


def alive(group: int) -> list[str]:
    """The processes of a group that still do something."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_an_interrupted_build_leaves_no_child_and_the_next_goes_on(
    host: FakeHost, cache: Cache, tarball: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("FAKE_HANGS_AT", "three")
    code = (
        "import sys; from pyvmm.cli import lab_build; from pyvmm.cli.main import _Parser\n"
        "parser = _Parser(); lab_build.add_arguments(parser)\n"
        "lab_build.command(parser.parse_args(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--source", str(tarball)],
        stderr=subprocess.DEVNULL,
    )
    hanging = host.folder / "hanging"
    for _ in range(1000):
        if hanging.exists() and hanging.read_text():
            break
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(20)
    if number == signal.SIGKILL:
        # Nobody could end make: it keeps the lock until it has ended.
        waited = []

        def on_wait(text: str) -> None:
            waited.append(text)
            os.killpg(int(hanging.read_text()), signal.SIGKILL)

        with cache.locked(on_wait):
            assert waited
    else:
        assert alive(int(hanging.read_text())) == []
    monkeypatch.delenv("FAKE_HANGS_AT")
    kernel: Kernel = build(BuildRequest(2, source=tarball), cache, Said())
    assert kernel.manifest.objects == 4
    assert host.calls() == ["allnoconfig", "vmlinux", "vmlinux"]
    assert building.default_jobs() >= 1
