# SPDX-License-Identifier: MIT
"""Addresses that a host can have. Pure."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_interface


def parse_host_address(text: str) -> IPv4Interface | IPv6Interface:
    """Parse an address with its length, as in 10.0.0.1/24. Raises `ValueError`, with the reason."""
    try:
        if "%" in text or "/" not in text:  # A zone is a device's name on some host.
            raise ValueError(text)
        address = ip_interface(text)
    except ValueError:
        raise ValueError("no address with its length, as in 10.0.0.1/24") from None
    return usable(address)


def usable(address: IPv4Interface | IPv6Interface) -> IPv4Interface | IPv6Interface:
    """`address`, if a host can have it. Raises `ValueError`, with the reason."""
    ip, network = address.ip, address.network
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise ValueError("no address that a host can have")
    if network.version == 4 and network.prefixlen < 31:
        if ip == network.network_address:
            raise ValueError("the subnet's own address, which no host can have")
        if ip == network.broadcast_address:
            raise ValueError("the subnet's broadcast address, which no host can have")
    return address
