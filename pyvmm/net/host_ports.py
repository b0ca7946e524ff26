# SPDX-License-Identifier: MIT
"""Ports of this machine's that are to lead to a guest: looked at before anybody listens there."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from pyvmm.errors import NoPermissionError, PyvmmError, SystemCallError, UsageError
from pyvmm.net.forwards import Forward, ForwardProtocol


def check_ports(forwards: Iterable[Forward]) -> None:
    """Refuse ports that are taken. passt goes on with one that it has got for IPv6 alone.

    Raises `UsageError`, `NoPermissionError`, `SystemCallError`.
    """
    for forward in forwards:
        for family, address in _places(forward):
            try:
                _bind(forward, family, address)
            except OSError as error:
                # A machine without IPv6, say, has nobody there who could be in the way.
                unknown = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                if not (unknown and not forward.host_address):
                    raise _refused(forward, error) from error


def _places(forward: Forward) -> tuple[tuple[socket.AddressFamily, str], ...]:
    if not forward.host_address:
        return ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
    family = socket.AF_INET6 if ":" in forward.host_address else socket.AF_INET
    return ((family, forward.host_address),)


def _bind(forward: Forward, family: socket.AddressFamily, address: str) -> None:
    is_tcp = forward.protocol is ForwardProtocol.TCP
    kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if is_tcp:
            # As whoever listens has it: connections that are over are not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((address, forward.host_port))


def _refused(forward: Forward, error: OSError) -> PyvmmError:
    attempt = f"forward {forward}"
    port = f"{forward.protocol.value} port {forward.host_port}"
    match error.errno:
        case errno.EADDRINUSE:
            return UsageError(attempt, f"{port} is taken", "give another one")
        case errno.EADDRNOTAVAIL:
            cause = f"{forward.host_address} is no address of this machine's"
            return UsageError(attempt, cause, "give one that ip address shows, or none")
        case errno.EACCES | errno.EPERM:
            remedy = (
                "give one from 1024 on, or lower the sysctl net.ipv4.ip_unprivileged_port_start"
            )
            return NoPermissionError(attempt, f"{port} may not be bound", remedy)
    return SystemCallError(attempt, error.errno or 0, error.strerror or str(error))
