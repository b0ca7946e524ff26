# SPDX-License-Identifier: MIT
"""Forwarding of packets between the devices of a network namespace (Linux' ip-sysctl.rst)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError

_SETTINGS: Final = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
"""Of the calling thread's namespace, below /proc/sys/net, by IP version."""


def _path(version: int) -> Path:
    return Path("/proc/sys/net") / _SETTINGS[version]


def forward() -> None:
    """Have the calling thread's namespace forward packets, of IPv6 if there is any.

    Raises `HostLacksError` without IPv4, `NoPermissionError`, `SystemCallError`.
    """
    for version in _SETTINGS:
        attempt = f"have a network namespace forward packets ({_path(version)})"
        try:
            _path(version).write_text("1\n", encoding="ascii")
        except FileNotFoundError as error:
            if version == 4:
                raise HostLacksError(attempt, "this kernel has no such setting") from error
        except PermissionError as error:
            raise NoPermissionError(attempt, error.strerror or "", "do it as root") from error
        except OSError as error:
            raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error


def refuse_without_forwarding(version: int, bridge: str) -> None:
    """See that the calling thread's namespace forwards packets: its setting is nobody's to change
    for one topology. Raises `HostLacksError`.
    """
    try:
        if _path(version).read_text(encoding="ascii").strip() != "0":
            return
        cause = "this network namespace does not forward packets"
    except OSError as error:
        cause = f"{_path(version)} cannot be read: {error.strerror}"
    name = _SETTINGS[version].replace("/", ".")
    raise HostLacksError(
        f"masquerade what is on the bridge {bridge}", cause, f"sysctl -w net.{name}=1"
    )
