# SPDX-License-Identifier: MIT
"""Offloads as a wire has them, and as a network device negotiates them. Pure."""

from __future__ import annotations

from typing import Final

from pyvmm.devices.virtio.net_features import NO_NET_FEATURES, NetFeature
from pyvmm.net.frames import NO_OFFLOADS, Offload

_EACH: Final = (
    (Offload.CHECKSUM, NetFeature.CSUM, NetFeature.GUEST_CSUM),
    (Offload.TSO4, NetFeature.HOST_TSO4, NetFeature.GUEST_TSO4),
    (Offload.TSO6, NetFeature.HOST_TSO6, NetFeature.GUEST_TSO6),
    (Offload.TSO_ECN, NetFeature.HOST_ECN, NetFeature.GUEST_ECN),
    (Offload.USO4, NO_NET_FEATURES, NetFeature.GUEST_USO4),
    (Offload.USO6, NO_NET_FEATURES, NetFeature.GUEST_USO6),
    (Offload.USO4 | Offload.USO6, NetFeature.HOST_USO, NO_NET_FEATURES),
)
"""Offloads, and the features of frames that are sent and of those that come."""


def features_of(offloads: Offload) -> NetFeature:
    """The features that a card on a wire with these offloads has."""
    found = NO_NET_FEATURES
    for one, sent, received in _EACH:
        if one in offloads:
            found |= sent | received
    return found


def sent_of(features: NetFeature) -> Offload:
    """The offloads that frames may need which come from a driver with these features."""
    found = NO_OFFLOADS
    for one, sent, _ in _EACH:
        if sent & features:
            found |= one
    return found


def wanted_of(features: NetFeature) -> Offload:
    """The offloads that frames may need which come to a driver with these features."""
    found = NO_OFFLOADS
    for one, _, received in _EACH:
        if received & features:
            found |= one
    return found
