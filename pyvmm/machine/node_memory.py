# SPDX-License-Identifier: MIT
"""Memory of a guest's NUMA nodes on nodes of the host's, before anything of it is touched."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.memory_policy import Mode, Policy, allowed_nodes, policy_at, set_policy
from pyvmm.machine.hardware import MemoryPolicy, NumaNode
from pyvmm.machine.numa import file_ranges
from pyvmm.memory.backing import BackingChoice, RamBacking
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.interface import Vm

_MODES = {
    MemoryPolicy.BIND: Mode.BIND,
    MemoryPolicy.PREFERRED: Mode.PREFERRED,
    MemoryPolicy.INTERLEAVE: Mode.INTERLEAVE,
}


def choose_for_policies(
    vm: Vm, choice: BackingChoice, recorder: Recorder | None = None
) -> BackingChoice:
    """`choice`, a guest_memfd, if such a file keeps policies; a memfd otherwise, which does.

    Raises `HostLacksError` for a kernel without policies, `NoPermissionError`, `SystemCallError`.
    """
    if _keeps_policies(vm, choice.flags, recorder):
        return choice
    return BackingChoice(
        RamBacking.MEMFD,
        GuestMemfdFlag(0),
        "memfd: this host's guest_memfd keeps no memory policy, which a NUMA node has",
    )


def _keeps_policies(vm: Vm, flags: GuestMemfdFlag, recorder: Recorder | None) -> bool:
    """Set a policy by one mapping of a guest_memfd, and ask for it by another.

    Where it is not the file's, the call succeeds all the same, and the pages do not follow.
    """
    with ExitStack() as stack:
        file = stack.enter_context(vm.create_guest_memfd(PAGE_SIZE, flags))
        one, other = stack.enter_context(file.map()), stack.enter_context(file.map())
        set_policy(one.hva, PAGE_SIZE, Policy(Mode.LOCAL), recorder)
        return policy_at(other.hva).mode != Mode.DEFAULT


def place_nodes(hva: int, nodes: tuple[NumaNode, ...], recorder: Recorder | None = None) -> None:
    """Set the policies of the nodes' memory, which is mapped at `hva`, one after another.

    Raises `HostLacksError` for nodes that the host has not or this process may not use, and for a
    kernel without policies; `NoPermissionError`, `SystemCallError`.
    """
    for number, (node, start, end) in enumerate(file_ranges(nodes)):
        if node.policy is None:
            continue
        wanted = Policy(_MODES[node.policy], tuple(sorted(set(node.host_nodes))))
        try:
            set_policy(hva + start, end - start, wanted, recorder)
        except SystemCallError as error:
            if error.errno != errno.EINVAL:
                raise
            raise _no_such_node(number, wanted) from error
        # The kernel leaves those out that it has not, as long as there is one that it has.
        if policy_at(hva + start) != wanted:
            raise _no_such_node(number, wanted)


def _no_such_node(number: int, wanted: Policy) -> HostLacksError:
    allowed = allowed_nodes()
    lacking = [node for node in wanted.nodes if node not in allowed]
    return HostLacksError(
        f"place the memory of NUMA node {number}",
        f"the host has no memory for this process at its node {', '.join(map(str, lacking))}",
        f"it has at {', '.join(map(str, allowed))}",
    )
