# SPDX-License-Identifier: MIT
"""Where the time of a ``pyvmm`` process goes: phases by the clock, imports by package."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import baselines, launching, system_calls
from benchmarks.measure import CannotRunError, Effort, Table

_STAMPED = Path(__file__).with_name("stamped_pyvmm.py")
_PHASES = (
    ("launched", "main", "interpreter start, `site`"),
    ("main", "imported", "imports of the command"),
    ("imported", "entering", "arguments, image, trio's start, console"),
    ("entering", "entered", "VM set-up (host's imports included)"),
    ("entered", "waited", "guest: from its start to its end and the console's"),
    ("waited", "left", "teardown of the machine"),
    ("left", "returned", "trio's end, exit code"),
    ("returned", "exited", "interpreter's end, the kernel's clean-up"),
)
_RUNS = 10


def tables(effort: Effort, command: Sequence[str]) -> list[Table]:
    """Phases, imports, system calls of `command`."""
    return [
        _phases(effort.scaled(_RUNS), command[1:]),
        _imports(effort.scaled(_RUNS), command),
        _calls(command),
    ]


def _phases(runs: int, arguments: Sequence[str]) -> Table:
    """Medians. The command is the real one; stamped_pyvmm.py wraps a few functions of it."""
    rounds = [_stamps(arguments) for _ in range(runs + 1)][1:]
    rows = []
    for first, last, what in _PHASES:
        middle = statistics.median(stamps[last] - stamps[first] for stamps in rounds)
        rows.append((what, f"{middle * 1e3:.1f} ms", ""))
    bare = statistics.median(_bare_interpreter() for _ in range(runs))
    rows.append(("for comparison: python -c pass", f"{bare * 1e3:.1f} ms", "as a whole process"))
    modules = statistics.median(stamps["modules"] for stamps in rounds)
    rows.append(("modules in sys.modules at the end", f"{modules:.0f}", ""))
    return Table(f"phases of pyvmm's process, medians of {runs}", tuple(rows))


def _stamps(arguments: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        stamps_file = Path(folder) / "stamps"
        answer = launching.launched(
            [*baselines.PYTHON, str(_STAMPED), *arguments],
            Path(os.devnull),
            launching.environment() | {"PYVMM_STAMPS": str(stamps_file)},
        )
        if answer["status"]:
            raise CannotRunError(f"{_STAMPED.name} ended with {answer['status']:.0f}")
        stamps: dict[str, float] = json.loads(stamps_file.read_text(encoding="utf-8"))
    return stamps | {"launched": answer["started"], "exited": answer["ended"]}


def _bare_interpreter() -> float:
    answer = launching.launched([*baselines.PYTHON, "-c", "pass"], Path(os.devnull))
    return answer["ended"] - answer["started"]


def parse_import_times(text: str) -> dict[str, float]:
    """Module to its own microseconds, from what ``-X importtime`` writes."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and len(fields) == 3 and fields[0].strip().isdecimal():
            found[fields[2].strip()] = float(fields[0])
    return found


def _imports(runs: int, command: Sequence[str]) -> Table:
    """Microseconds by top package, medians; measuring makes each import a little slower."""
    rounds = []
    for _ in range(runs):
        done = subprocess.run(
            command,
            env=launching.environment() | {"PYTHONPROFILEIMPORTTIME": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        rounds.append(parse_import_times(done.stderr))
    packages: dict[str, list[float]] = {}
    for times in rounds:
        sums: Counter[str] = Counter()
        for module, microseconds in times.items():
            sums[module.partition(".")[0]] += int(microseconds)
        for package, microseconds in sums.items():
            packages.setdefault(package, []).append(microseconds)
    sizes = Counter(module.partition(".")[0] for module in rounds[0])
    middles = {package: statistics.median(all_) for package, all_ in packages.items()}
    ordered = sorted(middles, key=lambda package: -middles[package])
    shown = ordered[:16]
    rows = [_row(package, middles[package], sizes[package]) for package in shown]
    rest = ordered[16:]
    rows.append(_row("others", sum(map(middles.__getitem__, rest)), sum(sizes[p] for p in rest)))
    rows.append(_row("all", sum(middles.values()), sum(sizes.values())))
    return Table(f"imports by top package, own time, medians of {runs}", tuple(rows))


def _row(what: str, microseconds: float, modules: int) -> tuple[str, str, str]:
    return (what, f"{microseconds / 1e3:.1f} ms", f"{modules} modules")


def _calls(command: Sequence[str]) -> Table:
    counts = system_calls.of_process(command, launching.environment())
    title = "system calls of the whole process, by strace"
    if counts is None:
        return Table(f"{title}: not counted, strace is not there or may not trace", ())
    most = counts.most_common(12)
    rows = [(call, str(count), "") for call, count in most]
    return Table(title, (("all", str(counts.total()), ""), *rows))
