# SPDX-License-Identifier: MIT
"""Running of the cases on this machine's KVM, by pytest in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.held_signals import held_signals
from pyvmm.hosts.kvm.system import System
from pyvmm.parity.table import Case, parse
from pyvmm.parity.verdicts import DESCRIPTOR, Outcome, Parity, Told, judge

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]
_PLUGIN = "pyvmm.parity.plugin"  # By name: to load it takes pytest.
_NOTHING_CHOSEN = 5
_USAGE = 4
_COULD_NOT_RUN = (2, 3, _USAGE)
_TAIL = 2000
_PATIENCE = 5.0

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


def cases() -> tuple[Case, ...]:
    """All that docs/parity.md lists. Raises `HostLacksError` where this pyvmm has none."""
    return parse(_table().read_text(encoding="utf-8"))


def run(pattern: str | None, tell: Tell) -> Parity:
    """Ask this machine's KVM for the cases whose names have `pattern` (pytest's -k); None: all.

    Raises `HostLacksError` without KVM, pytest or an assembler, `UsageError` for a pattern that
    chooses nothing or is none.
    """
    known = cases()
    if find_spec("pytest") is None:
        raise HostLacksError(
            "run the cases of docs/parity.md", "pytest is not installed", "install pytest"
        )
    with System():
        pass
    files = sorted({case.function.partition("::")[0] for case in known})
    code, lines, said = _run_pytest(files, pattern, tell)
    if code == _NOTHING_CHOSEN:
        raise UsageError(
            f"run the cases that match {pattern!r}", "none does", "pyvmm parity lists them all"
        )
    if code == _USAGE and pattern is not None:
        raise UsageError(
            f"run the cases that match {pattern!r}",
            "pytest's -k cannot read it",
            "give a word, or words with and, or, not and brackets",
        )
    if code in _COULD_NOT_RUN or code < 0:
        raise InternalError("run the cases of docs/parity.md", f"pytest ended with {code}: {said}")
    told = [
        Told(function, parameters, Outcome(outcome), why)
        for function, parameters, outcome, why in lines
    ]
    return Parity("", os.uname().release, judge(known, told))


def _run_pytest(
    files: Sequence[str], pattern: str | None, tell: Tell
) -> tuple[int, list[list[str]], str]:
    """Its exit code (negative: the signal), what the plugin told, and the end of its output."""
    folder = _folder()
    words = [
        sys.executable, "-m", "pytest", "-q", "-p", _PLUGIN, "-p", "no:cacheprovider",
        "-c", os.devnull, "--rootdir", str(folder), "--confcutdir", str(folder), *files,
    ]  # fmt: skip
    if pattern is not None:
        words += ["-k", pattern]
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as told, tempfile.TemporaryFile() as said:
        environment = {**os.environ, DESCRIPTOR: str(writing), "PYTEST_ADDOPTS": ""}
        child = None
        try:
            try:
                with held_signals():
                    child = subprocess.Popen(
                        words, env=environment, pass_fds=(writing,), cwd=folder,
                        stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                    )  # fmt: skip
            finally:
                os.close(writing)
            lines = _follow(told, tell)
            child.wait()
        except BaseException:
            if child is not None:
                _end(child)
            raise
        said.seek(0)
        text = said.read().decode(errors="replace").strip()[-_TAIL:]
    return child.returncode, lines, text


def _end(child: subprocess.Popen[bytes]) -> None:
    """End pytest, which ends its own children where it is interrupted; and if it does not, kill."""
    takes = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # It has that from us.
    child.send_signal(signal.SIGINT if takes else signal.SIGTERM)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _follow(told: Iterable[str], tell: Tell) -> list[list[str]]:
    """Collect what the plugin tells of each test, until it ends."""
    tell("starting the cases", 0, 0)
    total = 0
    lines: list[list[str]] = []
    for line in told:
        value = json.loads(line)
        if isinstance(value, int):
            total = value
        else:
            lines.append(value)
        tell("cases of the kernel's tests", len(lines), total)
    return lines


def _folder() -> Path:
    """Folder of the cases: beside this file where pyvmm is installed, else in the checkout."""
    for folder in (_PACKAGE / "cases", _CHECKOUT / "tests" / "parity"):
        if (folder / "__init__.py").is_file():
            return folder
    raise HostLacksError(
        "run the cases of docs/parity.md",
        "this pyvmm has been installed without",
        "install it anew",
    )


def _table() -> Path:
    """Table of the cases: where `_folder` is."""
    folder = _folder()
    return folder / "parity.md" if folder.parent == _PACKAGE else _CHECKOUT / "docs" / "parity.md"
