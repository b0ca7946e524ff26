# SPDX-License-Identifier: MIT
"""Topologies of this machine: put up, looked at, and taken down; one of these at a time."""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvmm.errors import UsageError
from pyvmm.net.finding import Survey
from pyvmm.net.found import FoundTopology
from pyvmm.net.making import make
from pyvmm.net.namespaces import own_namespace
from pyvmm.net.removing import remove
from pyvmm.net.topology import Topology


class Became(enum.Enum):
    """Outcome of putting a topology up."""

    MADE = "made"
    MADE_ANEW = "made anew"
    """It had been begun and not finished: the rest of that was removed first."""
    WAS_UP = "was up"


@contextmanager
def only_one(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Have nobody else put up or take down topologies of this network namespace meanwhile.

    The lock is on the namespace's own file, so it leaves nothing and goes with its holder.
    `on_wait` is called if another one has it. Raises what `own_namespace` does.
    """
    fd = own_namespace()
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def put_up(topology: Topology, check: Callable[[], None]) -> Became:
    """Make a topology, within `only_one`. What `check` raises, and whatever fails, undoes it.

    One that is up already and was made of the same contents stays as it is; what is left of one
    that was never finished is made anew. Raises `UsageError` for one of other contents, or with
    something missing, and what `make` does.
    """
    found = Survey().topology(topology.name)
    became = Became.MADE
    if found.count or found.leftovers:
        if found.is_whole and found.was_made_of(topology.digest):
            return Became.WAS_UP
        if found.total:
            raise _other(topology, found)
        refuse_in_use(found, f"put the topology {topology.name} up anew")
        remove(found)
        became = Became.MADE_ANEW
    try:
        make(topology, check)
    except BaseException:
        remove(Survey().topology(topology.name))
        raise
    return became


def _other(topology: Topology, found: FoundTopology) -> UsageError:
    cause = "there is one of that name, made of a file that said something else"
    if found.was_made_of(topology.digest):
        gone = found.total - found.count
        be = "is" if gone == 1 else "are"
        cause = f"it is up, but {gone} of its {found.total} objects {be} gone"
    return UsageError(
        f"put the topology {topology.name} up", cause, f"first, pyvmm net down {topology.name}"
    )


def take_down(name: str, *, force: bool = False) -> int:
    """Remove a topology, within `only_one`; the number of its objects, 0 where there was none.

    Raises `UsageError` while one of its taps is in use, unless with `force`.
    """
    found = Survey().topology(name)
    if not force:
        refuse_in_use(found, f"take the topology {name} down", ", or add --force")
    return remove(found)


def refuse_in_use(found: FoundTopology, attempt: str, other_way: str = "") -> None:
    """See that no tap of a topology is open. Raises `UsageError`."""
    names = [device.name for device in found.in_use]
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        remedy = f"end who uses them first{other_way}"
        raise UsageError(attempt, f"taps of it are in use ({shown})", remedy)
