# SPDX-License-Identifier: MIT
"""Artifacts of failed boot tests: a folder a test, with what its guests have left.

What cannot be written is told in a line of the report (`Artifacts.failures`), and fails nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvmm.errors import PyvmmError
from pyvmm.testing.explaining.explain import Explanation, with_artifacts
from pyvmm.testing.explaining.witness import Remains
from pyvmm.testing.request import BootRequest

if TYPE_CHECKING:
    from pyvmm.testing.network.recordings import Recording

_LONGEST = 100
"""Letters of a folder's name."""
_MOST_OF_A_NAME = 1000
"""Folders of one name: of runs before this one."""
_MODE = 0o700
_KEPT = 20
"""Images, with their initrds, that stay among the user's temporary files."""


class Artifacts:
    """Artifacts of one test. `name` is its node id; the folder is made when there is something."""

    def __init__(self, root: Path, name: str, shown_from: Path) -> None:
        """`shown_from`: the folder that paths in reports are relative to."""
        self._root = root
        self._name = name
        self._shown_from = shown_from
        self._folder: Path | None = None
        self._cores = 0
        self._is_kept = False
        self.failures: list[str] = []
        """Failures to write, a line each; once for each reason."""

    def folder(self) -> Path:
        """Make the test's folder, with a name that no other has. Raises `OSError`."""
        if self._folder is None:
            self._root.mkdir(parents=True, exist_ok=True)
            name = folder_name(self._name)
            for number in range(1, _MOST_OF_A_NAME):
                folder = self._root / (name if number == 1 else f"{name}.{number}")
                with suppress(FileExistsError):
                    folder.mkdir()
                    self._folder = folder
                    break
            else:
                raise FileExistsError(17, f"there are {_MOST_OF_A_NAME} runs of it", str(folder))
        return self._folder

    def core_path(self) -> Path | None:
        """Path for a core that does not exist yet; None where the folder cannot be made."""
        try:
            folder = self.folder()
        except OSError as error:
            self._failed(error)
            return None
        self._cores += 1
        return folder / ("core" if self._cores == 1 else f"core.{self._cores}")

    def write(
        self, remains: Remains, explanation: Explanation, number: int, count: int
    ) -> Explanation:
        """Write all about a guest, the `number`th of `count` from 1 on; the explanation with it.

        Several guests have a folder each in the test's.
        """
        by_hand = explanation.by_hand
        shown = ""
        self._is_kept = True
        try:
            folder = self.folder()
            if count > 1:
                folder /= f"{number}-{_plain_name(Path(explanation.name).stem)}"
                folder.mkdir()
            shown = os.path.relpath(folder, self._shown_from)
            inputs = write_inputs(remains.life.request, folder)
            by_hand = _with_inputs(by_hand, inputs)
            explanation = with_artifacts(explanation, shown, by_hand)
            if remains.core is not None and count > 1:
                remains.core = remains.core.rename(folder / "core")
            self._write_files(remains, explanation, folder)
        except OSError as error:
            self._failed(error)
        return explanation

    def write_networks(self, recordings: Sequence[Recording]) -> None:
        """Write the frames of the test's networks."""
        for number, recording in enumerate(recordings, 1):
            try:
                name = "network.pcap" if number == 1 else f"network.{number}.pcap"
                path = self.folder() / name
                self._is_kept = True
                if not path.exists():
                    recording.save(path)
            except OSError as error:
                self._failed(error)
            except PyvmmError as error:
                self.failures.append(str(error))

    def _write_files(self, remains: Remains, explanation: Explanation, folder: Path) -> None:
        life = remains.life
        (folder / "console.txt").write_bytes(life.transcript.all())
        result = explanation.to_json() | {"test": self._name}
        del result["console"]
        _write_json(folder / "result.json", result)
        events = [
            {
                "seconds": one.seconds,
                "event": one.name.value,
                "vcpu": one.vcpu,
                "detail": one.detail,
            }
            for one in life.events
        ]
        exits = {str(vcpu.index): list(vcpu.exits) for vcpu in explanation.vcpus}
        _write_json(folder / "events.json", {"events": events, "last_exits": exits})
        text = f"{self._name}\n{explanation.title}\n{explanation.to_text()}\n"
        (folder / "explanation.txt").write_text(text, encoding="utf-8", errors="backslashreplace")

    def _failed(self, error: OSError) -> None:
        where = error.filename or self._root
        line = f"artifacts cannot be written: {where}: {error.strerror or error}"
        if line not in self.failures:
            self.failures.append(line)

    def drop(self) -> None:
        """Remove what was written of a test that has not failed: cores."""
        if self._is_kept or self._folder is None:
            return
        with suppress(OSError):
            for core in self._folder.glob("core*"):
                core.unlink()
            self._folder.rmdir()
        self._folder = None


def folder_name(node_id: str) -> str:
    """Name of a test's folder: readable, one part of a path, and another for every test."""
    name = _plain_name(node_id.replace("::", "-"))
    if name == node_id.replace("::", "-"):
        return name
    digest = hashlib.sha256(node_id.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{name}-{digest}"


def _plain_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.=+,-]+", "_", text).lstrip(".-")
    return name[-_LONGEST:].lstrip(".-") or "guest"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_inputs(request: BootRequest, folder: Path) -> dict[str, Path]:
    """Write the image and the initrd that have no file, and tell where; by their names.

    Raises `OSError`.
    """
    written: dict[str, Path] = {}
    for name, (file, data) in _inputs(request).items():
        written[name] = folder / file
        written[name].write_bytes(data)
    return written


def _inputs(request: BootRequest) -> dict[str, tuple[str, bytes]]:
    """File name and contents of what has no file, by its name in a command line."""
    inputs: dict[str, tuple[str, bytes]] = {}
    if request.path is None:
        inputs[request.name] = "guest.img", request.image
    if request.initrd is not None and request.initrd_path is None:
        inputs["initrd"] = "initrd.img", request.initrd
    return inputs


def with_files(request: BootRequest, by_hand: str) -> str:
    """Make a command line that names files of one whose image is in memory only.

    They are written to the user's own folder among temporary files, under their digests; the newest
    are kept. Where that cannot be, the command line stays as it is.
    """
    if request.path is not None and (request.initrd is None or request.initrd_path is not None):
        return by_hand
    try:
        return _with_inputs(by_hand, _write_temporary(request))
    except OSError:
        return by_hand


def _write_temporary(request: BootRequest) -> dict[str, Path]:
    own = Path(tempfile.gettempdir()) / f"pyvmm-images-{os.getuid()}"
    with suppress(FileExistsError):
        own.mkdir(_MODE)
    status = own.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(1, "it is somebody else's", str(own))
    if status.st_mode & 0o077:
        raise PermissionError(1, "others may use it", str(own))
    digest = hashlib.sha256(request.image + b"\0" + (request.initrd or b"")).hexdigest()[:16]
    folder = own / digest
    with suppress(FileExistsError):
        folder.mkdir(_MODE)
    written: dict[str, Path] = {}
    for name, (file, data) in _inputs(request).items():
        written[name] = folder / file
        _write_whole(written[name], data)
    os.utime(folder)
    _keep_the_newest(own)
    return written


def _write_whole(path: Path, data: bytes) -> None:
    """Have `path` contain `data`: other processes see all of it, or nothing."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == len(data):
            return  # The folder's name is the digest.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        part = Path(file.name)
        try:
            file.write(data)
            file.flush()
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _keep_the_newest(own: Path) -> None:
    ages: list[tuple[int, Path]] = []
    for folder in own.iterdir():
        with suppress(FileNotFoundError):  # Another process removed it.
            ages.append((folder.stat().st_mtime_ns, folder))
    for _, folder in sorted(ages, reverse=True)[_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def _with_inputs(by_hand: str, inputs: Mapping[str, Path]) -> str:
    if not inputs:
        return by_hand
    # After the program and its command a name of ours stands for a file.
    return shlex.join(str(inputs.get(word, word)) for word in shlex.split(by_hand))
