# SPDX-License-Identifier: MIT
"""Forwarded ports: what a program of the host's connects to, and where in the guest it arrives."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ForwardProtocol(enum.Enum):
    """Transport protocol of a forwarded port."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of this machine's that leads to one of the guest's; `host_address` of "" is any."""

    protocol: ForwardProtocol
    host_port: int
    guest_port: int
    host_address: str = ""

    def __str__(self) -> str:
        address = f"[{self.host_address}]" if ":" in self.host_address else self.host_address
        return f"{self.protocol.value}:{address}:{self.host_port}-:{self.guest_port}"
