# SPDX-License-Identifier: MIT
"""The limit that is behind an error: its value, and how to raise it.

Limits of resources (getrlimit(2), a shell's ``ulimit``), of control groups, and of the system.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvmm.errors import PyvmmError

KIB: Final = 1024
_UNICORN_NO_MEMORY: Final = 1
"""UC_ERR_NOMEM."""
_CHAIN_LIMIT: Final = 64
_ONE_TASK: Final = re.compile(r"\b1 processes and threads\b")


class Scarce(enum.Enum):
    """Resource that was exhausted."""

    OPEN_FILES = enum.auto()
    SYSTEM_FILES = enum.auto()
    TASKS = enum.auto()
    """Processes and threads."""
    MEMORY = enum.auto()
    FILE_SIZE = enum.auto()


@dataclass(frozen=True, slots=True)
class Limit:
    """Description of a limit, as a clause with its value, and the remedy."""

    text: str
    remedy: str


_ERRNOS: Final = {
    errno.EMFILE: Scarce.OPEN_FILES,
    errno.ENFILE: Scarce.SYSTEM_FILES,
    errno.ENOMEM: Scarce.MEMORY,
    errno.EFBIG: Scarce.FILE_SIZE,
}
_TEXTS: Final = {
    **{os.strerror(number): scarce for number, scarce in _ERRNOS.items()},
    "failed to map segment": Scarce.MEMORY,
    "can't start new thread": Scarce.TASKS,
    "qemu_thread_create": Scarce.TASKS,
    "KVM cannot start a thread": Scarce.TASKS,
}
"""Messages of libraries, and of children (they inherit our limits), by which a shortage is told."""
_STARTS: Final = frozenset({"_execute_child", "_fork_exec", "fork", "start"})
"""Functions that make processes and threads; elsewhere EAGAIN is not about those."""


def limit_behind(error: BaseException) -> Limit | None:
    """The limit that `error`, or what caused it, is about; None where none is known."""
    for one in _chain(error):
        scarce = _scarce(one)
        if scarce is not None:
            return describe(scarce)
    return None


def describe(scarce: Scarce) -> Limit | None:
    """The limit of `scarce` that holds here; None where there is none that we know of."""
    match scarce:
        case Scarce.OPEN_FILES:
            return _limit(
                resource.RLIMIT_NOFILE, "n", "this process may have {} files open", 1, "1024"
            )
        case Scarce.SYSTEM_FILES:
            most = _number(Path("/proc/sys/fs/file-max"))
            return Limit(
                f"this system may have {most} files open (fs.file-max)",
                "end other programs, or raise it: sysctl fs.file-max",
            )
        case Scarce.TASKS:
            return _of_memory() if _stack_does_not_fit() else _of_tasks()
        case Scarce.MEMORY:
            return _of_memory()
        case Scarce.FILE_SIZE:
            return _limit(
                resource.RLIMIT_FSIZE,
                "f",
                "this process may write files of {} KiB, guest RAM included",
                KIB,
            )


def _of_tasks() -> Limit:
    limit = _limit(resource.RLIMIT_NPROC, "u", "this user may have {} processes and threads")
    group = _group_limit("pids.max")
    if limit is None and group:
        limit = Limit(f"{group} processes and threads", "raise it, or end some of them")
    if limit is None:
        return Limit("this system gives no more processes and threads", "end other programs")
    return Limit(_ONE_TASK.sub("1 process or thread", limit.text), limit.remedy)


def _of_memory() -> Limit | None:
    limit = _limit(
        resource.RLIMIT_AS, "v", "this process may have {} KiB of address space", KIB
    ) or _limit(resource.RLIMIT_DATA, "d", "this process may have {} KiB of data", KIB)
    if limit is not None:
        return limit
    group = _group_limit("memory.max")
    return Limit(f"{group} bytes of memory", "raise it, or give the guest less") if group else None


def _limit(
    which: int, letter: str, text: str, unit: int = 1, more: str = "unlimited"
) -> Limit | None:
    soft, hard = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY:
        return None
    shown = f"{text.format(soft // unit)} (ulimit -{letter})"
    if hard == soft:
        return Limit(
            shown,
            f"raise it in a new shell or as root (ulimit -{letter} {more}): the hard one is as low",
        )
    enough = hard == resource.RLIM_INFINITY or (more.isdigit() and hard >= int(more))
    return Limit(shown, f"raise it: ulimit -{letter} {more if enough else hard // unit}")


def _stack_does_not_fit() -> bool:
    """Tell whether address space, not the number of threads, is what a thread's stack lacks.

    False where /proc, which tells of the address space, is not mounted.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if resource.RLIM_INFINITY in (most, stack):
        return False
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return False
    return pages * resource.getpagesize() + stack > most


def _group_limit(name: str) -> str:
    """The limit `name` of the lowest control group that has one, in words; "" where none has."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return ""
    root = Path("/sys/fs/cgroup")
    group = root / path
    while True:
        most = _number(group / name)
        if most is not None:
            return f"the control group /{group.relative_to(root)} may have ({name}) {most}"
        if group == root:
            return ""
        group = group.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it came from."""
    waiting = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _CHAIN_LIMIT:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


def _scarce(error: BaseException) -> Scarce | None:
    if isinstance(error, MemoryError):
        return Scarce.MEMORY
    if isinstance(error, SystemError) and "without" in str(error):
        # "error return without exception set": CPython's compiler, where it finds no memory.
        return Scarce.MEMORY
    number = getattr(error, "errno", None)
    if type(error).__module__.startswith("unicorn"):
        return Scarce.MEMORY if number == _UNICORN_NO_MEMORY else None
    if isinstance(error, OSError) and number == errno.EAGAIN:
        return Scarce.TASKS if _raised_in(error) in _STARTS else None
    if isinstance(error, OSError | PyvmmError) and number in _ERRNOS:
        return _ERRNOS[number]
    if isinstance(error, ImportError | RuntimeError | PyvmmError):
        said = str(error)
        return next((scarce for text, scarce in _TEXTS.items() if text in said), None)
    return None


def _raised_in(error: BaseException) -> str:
    """The name of the innermost function of its traceback."""
    trace = error.__traceback__
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return name
