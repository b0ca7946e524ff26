# SPDX-License-Identifier: MIT
"""Topologies as trees: who is in which namespace and on which bridge. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyvmm.net.found import FoundDevice, FoundTopology
from pyvmm.net.topology import USUAL_MTU
from pyvmm.net.topology_marks import MASQUERADES, ObjectKind

_BETWEEN = "  "
_LEAST_WIDTH = 40


@dataclass(slots=True)
class _Node:
    """A line and those below it; its words are kept whole where it is too long."""

    words: list[str]
    below: list[_Node] = field(default_factory=list)


def drawn(found: FoundTopology, width: int | None) -> str:
    """Draw a topology, in lines of up to `width` columns where words allow it; None: any length."""
    root = _Node([f"topology {found.name}", _state(found)], list(_places(found)))
    return "\n".join(_lines(root, "", "", max(width, _LEAST_WIDTH) if width else None))


def _state(found: FoundTopology) -> str:
    if found.is_whole:
        return f"{_objects(found.count)}, complete"
    if found.total:
        gone = found.total - found.count
        return f"{_objects(found.count)}, {gone} more {'is' if gone == 1 else 'are'} gone"
    # Interrupted, or the last of it, which has the number of all, has been removed by somebody.
    return f"{_objects(found.count)}, not complete"


def _objects(count: int) -> str:
    return f"{count} object{'s' if count != 1 else ''}"


def _places(found: FoundTopology) -> Iterator[_Node]:
    here = [device for device in found.devices if device.namespace is None]
    if here:
        yield _Node(["in this namespace"], _devices(here))
    for namespace in found.namespaces:
        inside = [one for one in found.devices if one.namespace == namespace.name]
        words = [f"namespace {namespace.name}"]
        if not inside:
            words.append("empty")
        yield _Node(words, _devices(inside))
    for file in found.files:
        yield _Node([f"name of no namespace {file}"])


def _devices(devices: Sequence[FoundDevice]) -> list[_Node]:
    """Devices, those on a bridge below it."""
    nodes = {device.name: _Node(_words(device)) for device in devices}
    for device in devices:
        nodes[device.name].below += [_Node(["route", _route(*one)]) for one in device.routes]
    top: list[_Node] = []
    for device in devices:
        above = nodes.get(device.bridge or "")
        (above.below if above is not None else top).append(nodes[device.name])
    return top


def _route(to: str, via: str) -> str:
    return f"{to} via {via}"


def _words(device: FoundDevice) -> list[str]:
    mark = device.mark
    if mark is None:
        return [device.name, "half made"]
    words = [f"{mark.kind.value} {device.name}", *device.addresses]
    match mark.kind:
        case ObjectKind.BRIDGE:
            known = {_subnet_of(address) for address in device.addresses}
            words += [_of_bridge(note) for note in mark.notes if note not in known]
        case ObjectKind.TAP:
            words += [f"guest {note}" for note in mark.notes]
            words.append("in use" if device.is_in_use else "free")
        case ObjectKind.VETH:
            words += [_other_end(note) for note in mark.notes]
    if device.mtu != USUAL_MTU:
        words.append(f"mtu {device.mtu}")
    if not device.is_up:
        words.append("down")
    return words


def _of_bridge(note: str) -> str:
    return "masquerades" if note == MASQUERADES else f"subnet {note}"


def _subnet_of(address: str) -> str:
    from ipaddress import ip_interface

    return str(ip_interface(address).network)


def _other_end(note: str) -> str:
    name, _, namespace = note.partition("@")
    return f"to {name} in {namespace or 'this namespace'}"


def _lines(node: _Node, first: str, rest: str, width: int | None) -> Iterator[str]:
    """The lines of a node: `first` is before its own, `rest` before those that follow."""
    line = first + node.words[0]
    inner = rest + ("│    " if node.below else "     ")
    for word in node.words[1:]:
        if width is not None and len(line) + len(_BETWEEN) + len(word) > width:
            yield line
            line = inner + word
        else:
            line += _BETWEEN + word
    yield line
    for number, each in enumerate(node.below, 1):
        is_last = number == len(node.below)
        yield from _lines(
            each, rest + ("└─ " if is_last else "├─ "), rest + ("   " if is_last else "│  "), width
        )
