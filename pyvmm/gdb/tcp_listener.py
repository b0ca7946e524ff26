# SPDX-License-Identifier: MIT
"""A TCP port that waits for GDB."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.errors import NoPermissionError, SystemCallError, UsageError


@contextmanager
def listening_at(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at a numeric address or a host's name; port 0: any that is free.

    Whoever can connect there has the guest in hand. Raises `UsageError` for a name that is none,
    `NoPermissionError`, `SystemCallError` where the port is taken.
    """
    attempt = f"listen for GDB at {host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UsageError(attempt, f"there is no such address: {cause}") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
        except PermissionError as error:
            raise NoPermissionError(
                attempt, str(error.strerror), "take a port above 1023"
            ) from error
        except OSError as error:
            number = error.errno or 0
            raise SystemCallError(
                attempt, number, str(error.strerror), "take another port"
            ) from error
        yield listener
