# SPDX-License-Identifier: MIT
"""Kills processes that open and close the wires of cards, each at another of its steps.

``python -m tests.net.killed_taps TIMES``. A step is a call of a function in C, on whatever thread.
The processes are forked from this one, which has imported what they need, and work in a network
namespace of its own. It says how many steps there are, and what is left of the killed ones.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from pyvmm.net.links import Links
from pyvmm.net.marks import Mark
from pyvmm.net.namespaces import new_namespace
from tests.net.namespace_work import links_of, opened, with_links

AT_ONCE = 20


def make(links: Links) -> None:
    """Make the bridge that the taps are put on."""
    # With an address of its own: it takes no port's.
    bridge = links.add_bridge("br0", Mark("t", "br0"))
    links.change(bridge, mac="02:00:00:00:00:01", is_up=True)


class Steps:
    """Counts a process's steps, and ends it at one of them."""

    def __init__(self, end: int = -1) -> None:
        self.taken = 0
        self._end = end

    def count(self, frame: FrameType, event: str, argument: object) -> None:
        """Take a step, as sys.setprofile has it."""
        if event == "c_call":
            self.taken += 1
            if self.taken == self._end:
                os.kill(os.getpid(), signal.SIGKILL)

    def work(self, netns: int, name: str) -> None:
        """Open a wire and close it."""
        threading.setprofile(self.count)
        sys.setprofile(self.count)
        opened(netns, name=name, bridge="br0", queues=2).close()
        sys.setprofile(None)


def begun(netns: int, end: int) -> int:
    """Begin a process that is to be killed at that step."""
    child = os.fork()
    if not child:
        Steps(end).work(netns, f"tap{end}")
        os._exit(0)
    return child


def is_killed(child: int) -> bool:
    """Wait for the end of a process; True where it has got to its last step."""
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(times: int) -> None:
    """Kill so many, at steps that are spread over all of them."""
    netns = new_namespace()
    with_links(netns, make)
    before = links_of(netns)
    for _ in range(2):  # The first one has steps that no other has.
        steps = Steps()
        steps.work(netns, "tap")
    ends = [1 + steps.taken * each // times for each in range(times)]
    kills = 0
    for first in range(0, times, AT_ONCE):
        children = [begun(netns, end) for end in ends[first : first + AT_ONCE]]
        kills += sum(map(is_killed, children))
    after = links_of(netns)
    print(steps.taken, kills, after == before, *sorted(set(after) - set(before)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
