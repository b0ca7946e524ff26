# SPDX-License-Identifier: MIT
"""A process that boots guests, and does to its boots what their command lines say.

``count FILE``: adds a line to FILE. ``die FILE N``: the same, and the process is gone, the first N
times. ``kill FILE N``: so is its parent, a worker of a cluster. ``hang FILE``: nothing comes back.
``only FILE``: it is skipped, but below the process whose number is in FILE. ``fail``: it failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import trio

from pyvmm.testing.matrix.boot_process import serve
from pyvmm.testing.matrix.jobs import Job
from pyvmm.testing.matrix.results import BootResult, Verdict

ROOT = Path(__file__).parents[3]


def command() -> list[str]:
    """Command line of such a process."""
    code = (
        "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
        "from tests.testing.matrix.fake_boots import main; main()"
    )
    return [sys.executable, "-c", code, json.dumps([str(ROOT), *sys.path])]


def main() -> None:
    trio.run(serve, os.dup(0), os.dup(1), boot)


async def boot(job: Job, contents: dict[str, bytes]) -> BootResult:
    word, *words = job.boot.image.append.split() or [""]
    verdict = Verdict.PASSED
    lines = count(Path(words[0]), job) if word in {"count", "die", "kill", "hang"} else 0
    match word:
        case "hang":
            print("it hangs", file=sys.stderr, flush=True)
            await trio.sleep_forever()
        case "die" if lines <= int(words[1]):
            print("\nit dies\n", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill" if lines <= int(words[1]):
            os.kill(os.getppid(), signal.SIGKILL)
            await trio.sleep_forever()
        case "only" if number_in(Path(words[0])) != os.getppid():
            verdict = Verdict.SKIPPED
        case "fail":
            verdict = Verdict.FAILED
    return BootResult(
        job.boot.key, verdict, console=contents[job.image][:4], by_hand=str(os.getpid())
    )


def count(log: Path, job: Job) -> int:
    """Add a line on the job; how many there are then."""
    with log.open("a+", encoding="utf-8") as file:
        print(job.boot.key, os.getpid(), file=file, flush=True)
        file.seek(0)
        return len(file.readlines())


def number_in(file: Path) -> int:
    """The number that a file has."""
    return int(file.read_text(encoding="utf-8"))
