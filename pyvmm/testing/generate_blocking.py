# SPDX-License-Identifier: MIT
"""``python -m pyvmm.testing.generate_blocking``: makes `blocking_vm`."""

from __future__ import annotations

import sys

from pyvmm.machine.generate_blocking import Twins

CLASSES = {
    "AsyncConsole": "console",
    "AsyncMemory": "vm_memory",
    "AsyncEvents": "vm_events",
    "AsyncVm": "vm",
}
"""Classes that have a twin, and the modules of `pyvmm.testing` they are in."""
_HEAD = '''# SPDX-License-Identifier: MIT
"""The blocking twins of a booted guest's objects. Made by `generate_blocking`: not to be edited."""
'''
TESTING = Twins(
    package="pyvmm.testing",
    classes=CLASSES,
    head=_HEAD,
    name=lambda name: name.removeprefix("Async"),
    task="BootTask",
    task_module="pyvmm.testing.boot_task",
    adds_timeout=False,
    others={"is_told": "failures"},
    first="__tracebackhide__ = is_told",
)


if __name__ == "__main__":
    sys.stdout.write(TESTING.generated())
