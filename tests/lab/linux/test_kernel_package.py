# SPDX-License-Identifier: MIT
"""Debian's kernel package: which one is asked for, and what the cache has of it afterwards."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import debian
from pyvmm.lab.kernel.failures import KernelBuildError
from pyvmm.lab.linux import kernel_package
from pyvmm.lab.linux.kernel_package import LinuxKernel, fetch, kept

PACKAGE = "linux-image-6.1.0-50-cloud-amd64"

APT_GET = r"""
echo "apt-get $*" >> "$FAKES/calls"
case "$*" in
*indextargets*) ;;
*update*) ! [ -e "$FAKES/no-network" ] || { echo "E: Failed to fetch it"; exit 100; } ;;
*download*) cp "$FAKES/deb" "$(cat "$FAKES/file")" ;;
esac
"""
APT_CACHE = r"""
for package; do :; done
echo "apt-cache $package" >> "$FAKES/calls"
cat "$FAKES/shown-$package"
"""


class Said:
    """A `Progress` that nobody reads."""

    def say(self, text: str) -> None:
        pass

    def stage(self, title: str, total: float | None, unit: str):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        class Nothing:
            def reach(self, done: float) -> None:
                pass

        return nullcontext(Nothing())


class Archive:
    """Debian's archive, as small programs in a folder that stand for apt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, abi: str, *, below: str = "", modules: bool = True) -> None:
        """The newest package is of the kernel `abi`, its modules in the folder `below` + lib."""
        tree = self.folder / f"tree-{abi}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: linux-image-{abi}\nVersion: 1\nArchitecture: amd64\nMaintainer: us\n"
            "Description: x\n"
        )
        (tree / "boot").mkdir()
        (tree / f"boot/vmlinuz-{abi}").write_bytes(abi.encode())
        if modules:
            (tree / below / "lib/modules" / abi / "kernel").mkdir(parents=True)
        deb = self.folder / "deb"
        subprocess.run(["dpkg-deb", "-Znone", "-b", tree, deb], check=True, capture_output=True)
        data = deb.read_bytes()
        (self.folder / "file").write_text(f"linux-image-{abi}_1_amd64.deb")
        (self.folder / "shown-linux-image-cloud-amd64").write_text(
            f"Package: linux-image-cloud-amd64\nDepends: linux-image-{abi} (= 1)\nVersion: 1\n"
        )
        (self.folder / f"shown-linux-image-{abi}").write_text(
            f"Package: linux-image-{abi}\nDepends: kmod, initramfs-tools\nVersion: 1\n"
            f"Architecture: amd64\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    folder = tmp_path / "archive"
    (folder / "bin").mkdir(parents=True)
    for name, text in (("apt-get", APT_GET), ("apt-cache", APT_CACHE)):
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
    keyring = folder / "keyring.gpg"
    keyring.write_text("")
    monkeypatch.setattr(debian, "KEYRINGS", (keyring,))
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    monkeypatch.setenv("FAKES", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Archive(folder)


def fetched(again: bool = False) -> LinuxKernel:
    return fetch(Said(), again=again)


@pytest.mark.slow
def test_the_kernel_that_the_name_stands_for_is_fetched_once(archive: Archive) -> None:
    archive.has("6.1.0-50-cloud-amd64")
    assert kept("bookworm", "linux-image-cloud-amd64") is None
    kernel = fetched()
    assert kernel.release == "6.1.0-50-cloud-amd64"
    assert kernel.image.read_bytes() == b"6.1.0-50-cloud-amd64"
    assert kernel.modules is not None
    assert kernel.modules.is_dir()
    calls = archive.calls()
    assert f"apt-cache {PACKAGE}" in calls
    assert calls[-1].endswith(f"download {PACKAGE}=1")
    # Nobody is asked for what is there, not even where there is no network.
    (archive.folder / "no-network").write_text("")
    assert fetched() == kernel == kept("bookworm", "linux-image-cloud-amd64")
    assert archive.calls() == calls
    assert list(kernel_package.default_root().glob("downloads/*")) == []


@pytest.mark.slow
def test_again_fetches_a_newer_one_and_the_older_one_goes(archive: Archive) -> None:
    archive.has("6.1.0-50-cloud-amd64")
    older = fetched()
    downloads = sum("download" in call for call in archive.calls())
    assert fetched(again=True) == older
    assert sum("download" in call for call in archive.calls()) == downloads
    archive.has("6.1.0-51-cloud-amd64", below="usr")
    newer = fetched(again=True)
    assert newer.release == "6.1.0-51-cloud-amd64"
    assert not older.image.exists()
    assert newer.image.exists()
    assert "usr/lib/modules" in str(newer.modules)


@pytest.mark.slow
def test_a_package_without_modules_and_no_network(archive: Archive) -> None:
    archive.has("6.1.0-50-cloud-amd64", modules=False)
    with pytest.raises(KernelBuildError, match="it has no kernel with modules"):
        fetched()
    assert kept("bookworm", "linux-image-cloud-amd64") is None
    (archive.folder / "no-network").write_text("")
    with pytest.raises(KernelBuildError, match="E: Failed to fetch it"):
        fetched()


def test_a_package_that_debian_has_not(archive: Archive) -> None:
    with pytest.raises(HostLacksError, match=r"Debian bookworm has no linux-image-cloud-amd64"):
        fetched()


@pytest.mark.parametrize("name", ["", "../x", "-o", "a b", "A"])
def test_names_that_are_none(archive: Archive, name: str) -> None:
    with pytest.raises(UsageError, match="no name that Debian would give"):
        fetch(Said(), suite=name)
    with pytest.raises(UsageError, match="no name that Debian would give"):
        fetch(Said(), package=name)
    assert archive.calls() == []
