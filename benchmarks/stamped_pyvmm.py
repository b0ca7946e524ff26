# SPDX-License-Identifier: MIT
"""The command line of pyvmm with the time noted at a few points: see process_phases.py.

A program, run as a file: everything that `pyvmm` imports must still be unimported here, so this
file imports nothing of the package before the first stamps are taken.
"""

import time

stamps = {"main": time.monotonic()}

import functools  # noqa: E402 - after the first stamp
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import AsyncIterator, Awaitable, Callable  # noqa: E402
from contextlib import AbstractAsyncContextManager, asynccontextmanager  # noqa: E402
from typing import Any  # noqa: E402


def note(name: str) -> None:
    """Now, as `name`; the first time counts."""
    stamps.setdefault(name, time.monotonic())


def noted(method: Callable[..., Awaitable[Any]], after: str) -> Any:
    """`method`, with the time noted after it."""

    @functools.wraps(method)
    async def wrapped(*arguments: Any) -> Any:
        try:
            return await method(*arguments)
        finally:
            note(after)

    return wrapped


def noted_around(opened: Callable[..., AbstractAsyncContextManager[Any]]) -> Any:
    """`opened`, with the time noted before and after each of its ends."""

    @asynccontextmanager
    async def wrapped(*arguments: Any, **more: Any) -> AsyncIterator[Any]:
        note("entering")
        async with opened(*arguments, **more) as machine:
            note("entered")
            yield machine
        note("left")

    return wrapped


def main() -> int:
    """Import what `pyvmm run` imports, wrap, run."""
    import pyvmm.cli.main
    import pyvmm.cli.run
    from pyvmm.machine.steering import Control

    note("imported")
    command: Any = pyvmm.cli.run
    command.open_machine = noted_around(command.open_machine)
    control: Any = Control
    control.wait = noted(control.wait, "waited")
    code = pyvmm.cli.main.main(sys.argv[1:])
    note("returned")
    return code


code = main()
with open(os.environ["PYVMM_STAMPS"], "w", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib
    json.dump(stamps | {"modules": len(sys.modules)}, file)
sys.exit(code)
