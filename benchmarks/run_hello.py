# SPDX-License-Identifier: MIT
"""``pyvmm run hello`` as a whole process, next to QEMU booting the same file."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import process_phases
from benchmarks.figures import Sample, at_most
from benchmarks.launching import launched
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm import bundled_guests

NAME = "run_hello"
TITLE = "`pyvmm run hello` and QEMU with the same image, as whole processes"
RUNS = 15

_GREETING = b"Hello from a pyvmm guest"
_MACHINE = (
    "-M", "microvm", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
    "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-m", "256",
)  # fmt: skip
_ACCELERATORS = {
    "QEMU with KVM": ("-accel", "kvm", "-cpu", "qemu64"),
    "QEMU with TCG": ("-accel", "tcg"),
}
"""The one that works as pyvmm does comes first: the targets are against it where it works."""
_QEMU_STATUS = 1
"""isa-debug-exit makes (0 << 1) | 1 of the guest's 0."""


def run(effort: Effort, step: Step) -> Result:
    """Measure, then look where pyvmm's time goes."""
    guest = bundled_guests.find("hello")
    if guest is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    program = Path(sys.executable).parent / "pyvmm"
    if not program.exists():
        raise CannotRunError(f"{program} does not exist; install pyvmm into this environment")
    command = [str(program), "run", "hello"]
    pyvmm = Subject("pyvmm", "pyvmm run hello", lambda: measured(command, 0))
    qemus = [_qemu(name, guest.path) for name in _working(guest.path)]
    subjects = [pyvmm, *qemus]
    best = qemus[0].name
    comparisons = [
        Comparison("wall_ms", "pyvmm", best, at_most(4.0)),
        Comparison("max_rss_mib", "pyvmm", best, at_most(1.0)),
        Comparison("cpu_ms", "pyvmm", best),
        *(Comparison("wall_ms", "pyvmm", other.name) for other in qemus[1:]),
        *(Comparison("max_rss_mib", "pyvmm", other.name) for other in qemus[1:]),
    ]
    result = Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), comparisons)
    step("where the time goes", 1, 1)
    result.tables.extend(process_phases.tables(effort, command))
    return result


def measured(command: Sequence[str], status: int) -> Sample:
    """Run `command` once; its output must be the guest's, its exit status `status`."""
    with tempfile.NamedTemporaryFile() as out:
        answer = launched(command, Path(out.name))
        text = out.read()
    if answer["status"] != status or not text.startswith(_GREETING):
        raise CannotRunError(
            f"{' '.join(command)} ended with {answer['status']:.0f} and said {text[:60]!r}"
        )
    return {
        "wall_ms": (answer["ended"] - answer["started"]) * 1e3,
        "cpu_ms": (answer["user"] + answer["system"]) * 1e3,
        "max_rss_mib": answer["max_rss_kib"] / 1024,
    }


def _qemu(name: str, image: Path) -> Subject:
    command = ["qemu-system-x86_64", *_ACCELERATORS[name], *_MACHINE, "-kernel", str(image)]
    what = f"{' '.join(command[:-1])} {image.name}"
    return Subject(name, what, lambda: measured(command, _QEMU_STATUS))


def _working(image: Path) -> list[str]:
    """The accelerators that boot the image here, best first. Raises `CannotRunError` for none."""
    if shutil.which("qemu-system-x86_64") is None:
        raise CannotRunError("qemu-system-x86_64 is not installed")
    working = []
    said = []
    for name in _ACCELERATORS:
        try:
            _qemu(name, image).sample()
        except CannotRunError as error:
            said.append(str(error))
        else:
            working.append(name)
    if not working:
        raise CannotRunError(f"QEMU does not boot {image}: {'; '.join(said)}")
    return working
