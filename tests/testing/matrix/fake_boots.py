# SPDX-License-Identifier: MIT
"""A process that boots guests, and does to its boots what their command lines say.

``count FILE``: adds a line to FILE. ``die FILE``: the same, and the process is gone, unless FILE
has as many lines as the last word says. ``hang``: nothing comes back. ``fail``: it failed.
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
    image = job.boot.image
    words = image.append.split()
    if words[:1] == ["hang"]:
        print("it hangs", file=sys.stderr, flush=True)
        await trio.sleep_forever()
    if words[:1] in (["die"], ["count"]):
        lines = count(Path(words[1]), job)
        if words[0] == "die" and lines <= int(words[2]):
            print("\nit dies\n", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    verdict = Verdict.FAILED if words[:1] == ["fail"] else Verdict.PASSED
    return BootResult(
        job.boot.key, verdict, console=contents[job.image][:4], by_hand=str(os.getpid())
    )


def count(log: Path, job: Job) -> int:
    """Add a line on the job; how many there are then."""
    with log.open("a+", encoding="utf-8") as file:
        print(job.boot.key, os.getpid(), file=file, flush=True)
        file.seek(0)
        return len(file.readlines())
