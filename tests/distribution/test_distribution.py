# SPDX-License-Identifier: MIT
"""The sdist is the whole project and nothing else; the wheel that it builds has what runs."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from functools import cache
from pathlib import Path

import pytest

from tests.distribution.wheels import ROOT, build, copy_project, try_to_build

VERSION = "0.1.0"
FOLDER = f"pyvmm-{VERSION}"
DIST_INFO = f"{FOLDER}.dist-info"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as they were written, and no git."""
    tree = tmp_path_factory.mktemp("distribution") / "tree"
    copy_project(tree)
    return tree


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_a_machine_without_tools_is_told_what_to_install(tree: Path, tmp_path: Path) -> None:
    done = try_to_build("wheel", tree, PATH=str(tmp_path), CC="cc-of-nobody -m64")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "building pyvmm takes cc-of-nobody, make, ar, strip, objcopy, not found here" in last
    assert "apt install" in last
    shutil.rmtree(tree / "build")


@pytest.fixture(scope="module")
def sdist(tree: Path) -> tuple[Path, set[str]]:
    """An sdist made from a folder in which things were built, and the files it is to have."""
    written = files_below(tree)
    for stray in (
        "pyvmm/hosts/kvm/_kvm.c", "pyvmm/hosts/kvm/_kvm.abi3.so", "pyvmm/images/old.img",
        "pyvmm/__pycache__/errors.cpython-311.pyc", "guest/build/objects/exit.o",
        "guest/build/hello.img", "pyvmm/lab/guest/build/init", "firmware/build/firmware.bin",
        "build/strict/run.o", "dist/old.whl", "tests/guest/.test_images.py.swp",
    ):  # fmt: skip
        (tree / stray).parent.mkdir(parents=True, exist_ok=True)
        (tree / stray).write_bytes(b"stray")
    return build("sdist", tree), written


@pytest.fixture(scope="module")
def wheel(sdist: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the unpacked sdist."""
    place = tmp_path_factory.mktemp("unpacked")
    # Debian 12's Python cannot yet be told to take no more than data from an archive.
    subprocess.run(["tar", "-xf", sdist[0], "-C", place], check=True)
    return build("wheel", place / FOLDER)


def test_the_sdist_is_the_whole_project_and_nothing_that_was_built(
    sdist: tuple[Path, set[str]],
) -> None:
    with tarfile.open(sdist[0]) as archive:
        names = {member.name for member in archive if not member.isdir()}
    own = {name.removeprefix(f"{FOLDER}/") for name in names}
    metadata = {name for name in own if name.startswith("pyvmm.egg-info/")}
    assert own - metadata - {"PKG-INFO", "setup.cfg"} == sdist[1]
    assert {"LICENSE", "Makefile", "setup-system", "docs/architecture.md"} <= own


@cache
def cases() -> set[str]:
    """Tests that ``pyvmm parity`` runs, and what they stand on, but not what tests them."""
    here = {path.name for path in (ROOT / "tests" / "parity").glob("*.py")}
    left_out = {"test_table.py", "test_kernel_answers.py"}
    return {f"pyvmm/parity/cases/{name}" for name in here - left_out}


def runs() -> set[str]:
    """The files of the project that an installed pyvmm has: no C, no headers, no Makefiles."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pyvmm").rglob("*.py")}
    page = {f"pyvmm/demo/page/static/{name}" for name in ("app.css", "live.js", "stepper.js")}
    return modules | page | {
        "pyvmm/py.typed", "pyvmm/lab/kernel/lab.config", "pyvmm/compare/linux/machine",
        *(f"pyvmm/lab/linux/{name}" for name in ("init", "rc", "session", "dhcp")),
    }  # fmt: skip


def test_the_wheel_has_what_runs_and_nothing_else(wheel: Path) -> None:
    programs = (ROOT / "guest" / "programs").iterdir()
    images = {f"pyvmm/images/{path.stem}.img" for path in programs} | {
        "pyvmm/images/guest.img", "pyvmm/images/firmware.bin", "pyvmm/images/bios.bin",
        "pyvmm/lab/guest/build/init",
    }  # fmt: skip
    metadata = {
        f"{DIST_INFO}/{name}"
        for name in (
            "licenses/LICENSE", "licenses/pyvmm/lab/kernel/changes/COPYING", "METADATA", "WHEEL",
            "RECORD", "entry_points.txt", "top_level.txt",
        )
    }  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        init = archive.getinfo("pyvmm/lab/guest/build/init")
    own = {"pyvmm/hosts/kvm/_kvm.abi3.so", "pyvmm/parity/cases/parity.md"}
    assert names == runs() | images | metadata | own | cases()
    assert all(sizes[name] > 1000 for name in images)
    assert init.external_attr >> 16 & 0o111, "the lab's first process can be executed"


def test_one_wheel_serves_every_version_of_python(wheel: Path) -> None:
    assert wheel.name == f"pyvmm-{VERSION}-cp311-abi3-linux_x86_64.whl"


def test_what_was_built_does_not_tell_where(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        extension = archive.read("pyvmm/hosts/kvm/_kvm.abi3.so")
        images = b"".join(archive.read(name) for name in archive.namelist() if ".img" in name)
    place = str(tree.parent.parent).encode()
    assert place not in extension
    assert place not in images


def test_the_metadata_name_the_licence_and_what_is_needed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{DIST_INFO}/METADATA").decode()
        licence = archive.read(f"{DIST_INFO}/licenses/LICENSE").decode()
    metadata: Message = Parser().parsestr(text)
    assert metadata["License-Expression"] == "MIT AND GPL-2.0-only"
    assert metadata.get_all("License-File") == ["LICENSE", "pyvmm/lab/kernel/changes/COPYING"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    classifiers = metadata.get_all("Classifier") or []
    assert not [one for one in classifiers if one.startswith("License ::")], "PEP 639: none"
    for minor in (11, 12, 13, 14):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
