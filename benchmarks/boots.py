# SPDX-License-Identifier: MIT
"""Boots of a small test image one after another: the plugin's, and QEMU's over QMP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import partial

from benchmarks import baselines
from benchmarks.boots_inside import QEMUS
from benchmarks.figures import Sample, at_least
from benchmarks.measure import (
    CannotRunError,
    Comparison,
    Effort,
    Result,
    Step,
    Subject,
    Table,
    take_turns,
)

NAME = "boots"
TITLE = "boots of a small test image, one after another on one processor"
RUNS = 5

BOOTS = 100
LEAST = 10.0
"""Boots a second over those of the better QEMU."""
MOST_MS = 5.0
"""Milliseconds that a test takes which goes on from a saved boot."""
_NAMES = {"qemu-kvm": "QEMU with KVM", "qemu-tcg": "QEMU with TCG"}


def run(effort: Effort, step: Step) -> Result:
    """Measure both hosts of pyvmm's, and whatever accelerators QEMU has here."""
    boots = effort.scaled(BOOTS)
    if shutil.which("qemu-system-x86_64") is None:
        raise CannotRunError("qemu-system-x86_64 is not installed")
    subjects = [
        Subject(
            f"pyvmm on {name}",
            f"{boots} boots in one test: with boot(...) as vm, vm.wait(), the guest's status",
            partial(_sample, way, boots),
        )
        for way, name in (("kvm", "KVM"), ("model", "the model"))
    ]
    subjects += [
        Subject(
            f"restored on {name}",
            f"{boots} restores in one test: with booted(...) as vm, a letter sent, its echo",
            partial(_sample, way, boots),
        )
        for way, name in (("kvm-restored", "KVM"), ("model-restored", "the model"))
    ]
    qemus = [way for way in QEMUS if _works(way)]
    if not qemus:
        raise CannotRunError("QEMU boots the image with no accelerator here")
    subjects += [
        Subject(
            _NAMES[way],
            f"{boots} launches of microvm, stopped; cont over QMP, its exit status",
            partial(_sample, way, boots),
        )
        for way in qemus
    ]
    samples = take_turns(subjects, effort, step)
    comparisons = [
        Comparison("boots_per_s", "pyvmm on KVM", _NAMES[way], at_least(LEAST)) for way in qemus
    ]
    comparisons += [Comparison("boots_per_s", "pyvmm on the model", _NAMES[way]) for way in qemus]
    result = Result(NAME, TITLE, subjects, samples, comparisons)
    median = result.spread("restored on KVM", "boot_ms").median
    met = "met" if median <= MOST_MS else "MISSED"
    row = ("a test that is restored", f"{median:.2f} ms", f"target <= {MOST_MS:g} ms: {met}")
    result.tables.append(Table("warm boots on KVM", (row,)))
    return result


def _works(way: str) -> bool:
    try:
        _sample(way, 1)
    except CannotRunError:
        return False
    return True


def _sample(way: str, boots: int) -> Sample:
    command = [*baselines.PYTHON, "-m", "benchmarks.boots_inside", way, str(boots)]
    done = subprocess.run(
        command, cwd=baselines.ROOT, capture_output=True, text=True, check=False, env=_environment()
    )
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise CannotRunError(f"{way}: {said}")
    answer: Sample = json.loads(done.stdout)
    return answer


def _environment() -> dict[str, str]:
    """This process's, without a pytest that is around it, and without other plugins than ours."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return ours | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pyvmm.testing.plugin"}
