# SPDX-License-Identifier: MIT
"""Kinds of values that a saved machine's file has, and the codec of them (`typed_values`)."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass

from pyvmm.devices import saved_values as devices
from pyvmm.devices.virtio import rings, saved_net
from pyvmm.devices.virtio import saved as virtio
from pyvmm.hosts import exits, pit, saved_state
from pyvmm.hosts.kvm import saved_values as kvm
from pyvmm.hosts.model import saved_values as model
from pyvmm.hosts.topology import Topology
from pyvmm.machine import config, device_choice, hardware
from pyvmm.machine.raw_flags import RawFlags
from pyvmm.memory import layout, page_states
from pyvmm.typed_values import Codec

_OTHERS = (
    exits.MmioRead,
    exits.MmioWrite,
    pit.SavedPit,
    pit.SavedCounter,
    saved_state.Origin,
    config.MachineConfig,
    config.PrivateConfig,
    device_choice.DeviceChoice,
    device_choice.ExitPortPlace,
    layout.GpaRange,
    page_states.PageRun,
    Topology,
    RawFlags,
    rings.QueuePlace,
    rings.QueuePosition,
)


_NETWORKS = (hardware.UserNet, hardware.TapNet, hardware.DescriptorNet)


def _declared(module: types.ModuleType) -> Iterable[type]:
    return (
        value
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
    )


KINDS: Mapping[str, type] = types.MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *_declared(devices),
            *_declared(virtio),
            *_declared(saved_net),
            *_declared(kvm),
            *_declared(model),
            # Those that name files of the host's are refused: it has no kind for paths, and none
            # for networks, so that nobody's file makes a machine open what its maker chose.
            *(kind for kind in _declared(hardware) if kind not in _NETWORKS),
            *_OTHERS,
        )
    }
)
"""Kinds of values beside those of the machine's own, by the names they are called by."""
_ONLY_FOR_TYPES = {
    "Callable": Callable,
    "Wiring": object,
    "PlacedDevice": object,
    "Hardware": hardware.Hardware,
    "RawFlags": RawFlags,
    "Topology": Topology,
}


def codec(own: Iterable[type]) -> Codec:
    """The codec of saved values; `own` are kinds beside `KINDS`."""
    return Codec([*KINDS.values(), *own], _ONLY_FOR_TYPES)
