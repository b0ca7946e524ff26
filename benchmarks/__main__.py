# SPDX-License-Identifier: MIT
"""``python -m benchmarks [NAME...]``: run benchmarks, print the figures.

Exit code 0 when everything ran, whatever the figures say; 1 when a benchmark could not run; 2 for
a wrong command line; 130 and 143 when it was interrupted or terminated.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    boots,
    conversions,
    conversions_in_place,
    demo,
    exits,
    experiment,
    host_facts,
    interrupts,
    kick,
    lab,
    leases,
    linux,
    model,
    net_queue,
    network,
    plugin,
    pmemsave,
    private_boot,
    private_memory,
    query_status,
    report,
    run_hello,
    saved_state,
    shell,
    topology,
    vm_life,
)
from benchmarks.measure import CannotRunError, Effort
from pyvmm.errors import PyvmmError

CATALOGUE = {
    module.NAME: module
    for module in (
        exits,
        vm_life,
        run_hello,
        kick,
        interrupts,
        lab,
        conversions,
        conversions_in_place,
        leases,
        net_queue,
        private_boot,
        private_memory,
        model,
        pmemsave,
        query_status,
        saved_state,
        experiment,
        demo,
        boots,
        plugin,
        linux,
        topology,
        network,
        shell,
    )
}
"""Every benchmark is a module with NAME, TITLE, RUNS (rounds by default) and `run`."""

QUICK_RUNS = 3
QUICK_SCALE = 0.2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pyvmm against C programs and QEMU. Figures are reported, never a "
        "reason to fail.",
        epilog="; ".join(f"{name}: {module.TITLE}" for name, module in CATALOGUE.items()),
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOGUE)}; default: all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a smoke test")
    parser.add_argument("--runs", type=int, metavar="N", help="rounds, instead of each one's own")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in CATALOGUE]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(CATALOGUE)}")
    if options.runs is not None and options.runs < 1:
        parser.error("--runs takes a number of at least 1")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    host = host_facts.facts()
    print("\n".join(f"{name}: {value}" for name, value in host.items()), flush=True)
    found: dict[str, Any] = {}
    could_not: dict[str, str] = {}
    for name in options.names or CATALOGUE:
        module = CATALOGUE[name]
        runs = options.runs or (QUICK_RUNS if options.quick else module.RUNS)
        effort = Effort(runs, QUICK_SCALE if options.quick else 1.0)
        try:
            with report.progress(name) as step:
                result = module.run(effort, step)
        except (CannotRunError, PyvmmError) as error:
            could_not[name] = str(error)
            print(f"\n{name}: could not run: {error}", flush=True)
            continue
        print("\n".join(report.lines(result)), flush=True)
        found[name] = result.to_json()
    if options.json is not None:
        everything = {"host": host, "benchmarks": found, "could_not_run": could_not}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 1 if could_not else 0


if __name__ == "__main__":
    # So that no lab is left behind: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    sys.exit(code)
