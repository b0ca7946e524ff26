# SPDX-License-Identifier: MIT
"""Wheels: pyvmm's own, built from a copy of the project, and those of what is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BUILT = ("build", "dist", "__pycache__", "*.egg-info", "*.so", "_kvm.c", "*.pyc")
HIDDEN = {".ci", ".gitignore"}


def _left_out(folder: str, names: list[str]) -> set[str]:
    hidden = {name for name in names if name.startswith(".") and name not in HIDDEN}
    images = {"images"} if Path(folder) == ROOT / "pyvmm" else set()  # Those of guests, built.
    return hidden | images | set(shutil.ignore_patterns(*BUILT)(folder, names))


def copy_project(tree: Path) -> None:
    """Copy the project's files as they were written, and no git."""
    shutil.copytree(ROOT, tree, ignore=_left_out)


def try_to_build(kind: str, tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Have the build backend make an "sdist" or a "wheel" of `tree`, with this machine's tools."""
    program = (
        "import sys; from setuptools import build_meta;"
        f"print('made', build_meta.build_{kind}(sys.argv[1]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(tree.parent / kind)],
        cwd=tree,
        env={**os.environ, "MAKEFLAGS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def build(kind: str, tree: Path) -> Path:
    """Path of what was built."""
    done = try_to_build(kind, tree)
    assert done.returncode == 0, done.stderr
    return tree.parent / kind / done.stdout.split()[-1]


def _needed(name: str) -> set[str]:
    """Names that `name`, installed here, needs here."""
    requirements = map(Requirement, metadata.requires(name) or ())
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def pack_what_is_installed(names: set[str], folder: Path) -> None:
    """Put wheels of `names`, and of what they need, into `folder`, from their files here.

    So pip installs them elsewhere without an index, in the versions that are tested here.
    """
    known: set[str] = set()
    while names:
        known |= names
        for name in names:
            _pack(metadata.distribution(name), folder)
        names = set().union(*map(_needed, names)) - known


def _pack(distribution: metadata.Distribution, folder: Path) -> None:
    said = Parser().parsestr(distribution.read_text("WHEEL") or "")
    tags = said.get_all("Tag") or []
    tag = next(str(each) for each in sys_tags() if str(each) in tags)
    name = canonicalize_name(distribution.name).replace("-", "_")
    record = []
    with zipfile.ZipFile(folder / f"{name}-{distribution.version}-{tag}.whl", "w") as archive:
        for file in distribution.files or ():
            # Scripts are made anew, and the rest pip writes by itself.
            if ".." in file.parts or "__pycache__" in file.parts or file.name in _OF_PIP:
                continue
            archive.write(str(file.locate()), str(file))
            record.append(f"{file},,\n")
            if file.name == "METADATA":
                record.append(f"{file.parent}/RECORD,,\n")
                place = f"{file.parent}/RECORD"
        archive.writestr(place, "".join(record))


_OF_PIP = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
