# SPDX-License-Identifier: MIT
"""Saved state of a network device. As `devices.virtio.saved`, loaded when one is saved."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.devices.saved_values import require, require_numbers
from pyvmm.devices.virtio.net_features import (
    GUEST_OFFLOADS,
    MAC_SIZE,
    MOST_PAIRS,
    is_card_address,
    is_consistent,
)
from pyvmm.devices.virtio.net_filter import MOST_ADDRESSES, VLANS


@dataclass(frozen=True, slots=True)
class SavedNet:
    """State of a card: address, pairs of queues and offloads that are used, and its filter."""

    mac: bytes
    pairs: int
    offloads: int
    accepts: int
    unicast: tuple[bytes, ...]
    multicast: tuple[bytes, ...]
    vlans: tuple[int, ...] | None

    def __post_init__(self) -> None:
        require(holds=is_card_address(self.mac), of=self, part="mac")
        require(holds=1 <= self.pairs <= MOST_PAIRS, of=self, part="pairs")
        fits = self.offloads | GUEST_OFFLOADS == GUEST_OFFLOADS
        require(holds=fits and is_consistent(self.offloads), of=self, part="offloads")
        require_numbers(self, "accepts", bits=8)
        for part in ("unicast", "multicast"):
            table = getattr(self, part)
            fits = len(table) <= MOST_ADDRESSES and all(len(one) == MAC_SIZE for one in table)
            require(holds=fits, of=self, part=part)
        fits = len(self.vlans or ()) <= VLANS and all(0 <= one < VLANS for one in self.vlans or ())
        require(holds=fits, of=self, part="vlans")
