# SPDX-License-Identifier: MIT
"""Boots as they travel to the processes that do them: with digests of their images, not these."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyvmm import bundled_guests
from pyvmm.errors import NoInputError
from pyvmm.machine.image_file import read_image, read_input
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.plan import Boot, Matrix, PlannedImage
from pyvmm.testing.matrix.results import BootResult

_INITRD_MAX = 4 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """A boot to do: `image` and `initrd` are SHA-256 digests of their bytes, in hexadecimal."""

    boot: Boot
    image: str
    initrd: str | None = None
    image_path: Path | None = None
    """Files on the machine of who asked for it: for the line that repeats the boot by hand."""
    initrd_path: Path | None = None
    is_bundled: bool = False
    """True for a bundled guest, whose name pyvmm knows."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the files that it needs."""
        return (self.image,) if self.initrd is None else (self.image, self.initrd)

    def inside_the_lab(self) -> Job:
        """The job as a process in the lab does it, where the lab's KVM is KVM."""
        return replace(self, boot=replace(self.boot, host=HostName.KVM))

    def from_the_lab(self, result: BootResult) -> BootResult:
        """The result of this job, where `inside_the_lab` came to `result`."""
        by_hand = result.by_hand.replace("--host kvm", "--host lab")
        return replace(result, key=self.boot.key, by_hand=by_hand)


@dataclass(frozen=True, slots=True)
class Request:
    """A job for a process that boots, and files by digest that it has not been sent before."""

    job: Job
    contents: dict[str, bytes] = field(repr=False)


class ImageFiles:
    """Files that a matrix boots, read once, by digest."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.paths: list[Path] = []
        self._jobs: dict[str, Job] = {}
        """By the image's name, with any of its boots."""

    def read(self, matrix: Matrix, folder: Path) -> None:
        """Read all files of `matrix`, whose relative paths begin at `folder`.

        Raises `NoInputError` and whatever else `read_image` raises.
        """
        for one in matrix.images:
            path = image_file(one, folder)
            job = Job(
                Boot(one, one.axes.memory[0], one.axes.cpus[0], one.axes.hosts[0], one.expect),
                self._kept(path, read_image),
                image_path=path.absolute(),
                is_bundled=path != folder / one.path,
            )
            if one.initrd is not None:
                path = folder / one.initrd
                initrd = self._kept(path, lambda path: read_input(path, _INITRD_MAX))
                job = replace(job, initrd=initrd, initrd_path=path.absolute())
            self._jobs[one.name] = job

    def _kept(self, path: Path, read: Callable[[Path], bytes]) -> str:
        content = read(path)
        digest = digest_of(content)
        self.contents[digest] = content
        self.paths.append(path)
        return digest

    def job(self, boot: Boot) -> Job:
        """The job of a boot of the matrix that was read."""
        return replace(self._jobs[boot.image.name], boot=boot)


def image_file(image: PlannedImage, folder: Path) -> Path:
    """The file that is meant: one below `folder`, or else the bundled guest of that name.

    Raises `NoInputError` where there is neither.
    """
    path = folder / image.path
    if path.exists() and not path.is_dir():
        return path
    bundled = bundled_guests.find(image.path)
    if bundled is not None:
        return bundled.path
    raise NoInputError(
        f"read the image {image.name}",
        f"there is no file {path}, and no bundled guest of that name",
        "paths are relative to the matrix file; pyvmm guests lists the bundled ones",
    )


def digest_of(content: bytes) -> str:
    """SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def missing(job: Job, there: Mapping[str, object]) -> list[str]:
    """Digests that the job needs and that are not `there`."""
    return [digest for digest in job.digests if digest not in there]
