# SPDX-License-Identifier: MIT
"""Road to a secret by a search of everything that the process has mapped."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from pyvmm.demo.stage.attackers.process_memory import proc_self_mem
from pyvmm.demo.stage.attackers.searching import Found
from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.stage.secret import SIZE
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Seen
from pyvmm.hosts.call_record import number_field

_PRIVATE_SIDE = (
    "the model's processor needs the private side in this process; a kernel maps it nowhere"
)


async def by_search(target: Target, gpa: int) -> Seen:
    """Look for the secret's words in all of /proc/self/maps that can be read."""
    searcher = target.searcher()
    reads: list[tuple[int, int, int]] = []
    # It reads all of the process: the stage goes on meanwhile.
    found = await trio.to_thread.run_sync(searcher.in_process, lambda *one: reads.append(one))
    _tell(target, reads, found)
    searched = f"{len(reads)} reads of /proc/self/mem, {sum(one[2] for one in reads) >> 20} MiB"
    if not found:
        note = f"{searched}: no word of the secret is anywhere in this process's memory"
        return closed(Road.SEARCH, gpa, note)
    first = found[0].address
    data = proc_self_mem(first, SIZE)
    note = f"{searched}: {_places(target, found)}"
    return Seen(Road.SEARCH, gpa, Content.SECRET, data, note=note)


def _tell(target: Target, reads: Sequence[tuple[int, int, int]], found: Sequence[Found]) -> None:
    """Tell of the reads that found something; where none did, of the largest."""
    hits = [one for one in reads if any(one[0] <= each.address < one[0] + one[2] for each in found)]
    for address, size, read in hits or [max(reads, key=lambda one: one[2])]:
        asked = number_field("address", address), number_field("length", size)
        target.told("preadv", "/proc/self/mem", *asked, result=read)


def _places(target: Target, found: Sequence[Found]) -> str:
    names = sorted({one.line.split(maxsplit=5)[-1].strip() for one in found})
    said = f"{len(found)} words found, in {', '.join(names)}"
    if any(target.has_on_model(one.address) for one in found):
        return f"{said}: {_PRIVATE_SIDE}"
    return said
