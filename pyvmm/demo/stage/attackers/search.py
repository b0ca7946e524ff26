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

_PRIVATE_SIDE = (
    "the model's processor needs the private side in this process; a kernel maps it nowhere"
)


async def by_search(target: Target, gpa: int) -> Seen:
    """Look for the secret's words in all of /proc/self/maps that can be read."""
    searcher = target.searcher()
    # It reads all of the process: the stage goes on meanwhile.
    found = await trio.to_thread.run_sync(searcher.in_process)
    if not found:
        note = "no word of the secret is anywhere in this process's readable memory"
        return closed(Road.SEARCH, gpa, note)
    first = found[0].address
    data = proc_self_mem(first, SIZE)
    return Seen(Road.SEARCH, gpa, Content.SECRET, data, note=_places(target, found))


def _places(target: Target, found: Sequence[Found]) -> str:
    names = sorted({one.line.split(maxsplit=5)[-1].strip() for one in found})
    said = f"{len(found)} words found, in {', '.join(names)}"
    if any(target.has_on_model(one.address) for one in found):
        return f"{said}: {_PRIVATE_SIDE}"
    return said
