# SPDX-License-Identifier: MIT
"""Removing what there is of a topology: exactly what has its marks, in whatever state it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pyvmm.net.found import FoundDevice, FoundNamespace, FoundTopology
from pyvmm.net.links import opened_links
from pyvmm.net.masquerading import unmasquerade
from pyvmm.net.named_namespaces import unname_namespace
from pyvmm.net.namespaces import within
from pyvmm.net.topology_marks import object_mark


def remove(found: FoundTopology) -> int:
    """Remove all of it; the number of things. Raises `NoPermissionError`, `SystemCallError`.

    The mark that says how many objects there are goes first: what is left of it when this is ended
    in the middle is no whole topology.
    """
    here = [device for device in found.devices if device.namespace is None]
    if here:
        here.sort(key=lambda device: -(device.mark.total if device.mark else 0))
        within(None, partial(_remove_devices, found.name, here))
    for namespace in sorted(found.namespaces, key=lambda one: -one.mark.total):
        _remove_namespace(found, namespace)
    for file in found.files:
        unname_namespace(Path(file), found.name, is_mounted=False)
    if found.masquerades:
        within(None, partial(unmasquerade, found.name))
    return found.count + found.leftovers


def _remove_namespace(found: FoundTopology, namespace: FoundNamespace) -> None:
    inside = [one for one in found.devices if one.namespace == namespace.name]
    if any(one.is_in_use for one in inside):
        # Who has a tap open holds the namespace; its devices would stay as long.
        within(namespace.path, partial(_remove_devices, found.name, inside))
    unname_namespace(Path(namespace.path), found.name, is_mounted=True)


def _remove_devices(topology: str, devices: list[FoundDevice]) -> None:
    with opened_links() as links:
        there = {link.index: link for link in links.all()}
        for device in devices:
            link = there.get(device.index)
            if link is None:
                continue  # The other end of a veth that is removed, say.
            if link.is_of(topology) and object_mark(link.mark) == device.mark:
                links.remove(link)
