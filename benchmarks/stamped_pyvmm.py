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
from collections.abc import Awaitable, Callable  # noqa: E402
from typing import Any  # noqa: E402


def note(name: str) -> None:
    """Now, as `name`; the first time counts."""
    stamps.setdefault(name, time.monotonic())


def noted(before: str | None, method: Callable[..., Awaitable[Any]], after: str) -> Any:
    """`method`, with the time noted before and after it."""

    @functools.wraps(method)
    async def wrapped(*arguments: Any) -> Any:
        if before is not None:
            note(before)
        try:
            return await method(*arguments)
        finally:
            note(after)

    return wrapped


def main() -> int:
    """Import what `pyvmm run` imports, wrap, run."""
    import pyvmm.cli.main
    import pyvmm.cli.run
    from pyvmm.machine.machine import Machine

    note("imported")
    cls: Any = Machine
    cls.__aenter__ = noted("entering", cls.__aenter__, "entered")
    cls.wait = noted(None, cls.wait, "waited")
    cls.__aexit__ = noted(None, cls.__aexit__, "left")
    code = pyvmm.cli.main.main(sys.argv[1:])
    note("returned")
    return code


code = main()
with open(os.environ["PYVMM_STAMPS"], "w", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib
    json.dump(stamps | {"modules": len(sys.modules)}, file)
sys.exit(code)
