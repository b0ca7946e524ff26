# SPDX-License-Identifier: MIT
"""A user and network namespace of this process's own: made here, and what is in there.

Only a process that holds nothing else calls this (`holder`): there is no way back, and with the end
of the process all of it has gone, but for taps whose descriptors somebody has.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError, UsageError
from pyvmm.net.taps import open_tap
from pyvmm.testing.network.channel import close_all
from pyvmm.testing.network.messages import (
    AddAddress,
    AddPort,
    Impair,
    OpenNetwork,
    OpenSocket,
    SetLink,
)

SWITCH = "switch"
"""Name of the bridge."""
_CLONE_NEWUSER, _CLONE_NEWNET = 1 << 28, 1 << 30
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.EINVAL)
"""Errors of unshare(2) that say that this user, or this kernel, may not."""
_HOW_TO_ALLOW = (
    "run as root, or allow user namespaces (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
)

_HOW_TO_HAVE_TAPS = "modprobe tun; its mode says who may use it, which udev has as 0666"


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter_namespace() -> None:
    """Give this process, which has one thread, a network namespace that it may do anything in.

    By a user namespace, in which it is root; root without these does without. Raises
    `HostLacksError` where neither is allowed.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        _map_root(uid, gid)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        try:
            _unshare(_CLONE_NEWNET)
        except OSError:
            cause = f"user namespaces are not allowed: {error.strerror}"
            raise HostLacksError("make a network namespace", cause, _HOW_TO_ALLOW) from error


def _map_root(uid: int, gid: int) -> None:
    """Be root in the user namespace (user_namespaces(7)). Raises `OSError`."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


class Namespace:
    """The switch of this process's namespace, its ports and addresses, by pyroute2."""

    def __init__(self, request: OpenNetwork) -> None:
        """Make the switch. Raises as all methods: `HostLacksError` and `SystemCallError`."""
        from pyroute2 import IPRoute

        with _told("make a switch in a network namespace"):
            # Frames are the tests' own: no reports and solicitations that nobody asked for.
            for name, value in (
                ("disable_ipv6", 1),
                ("accept_dad", 0),
                ("router_solicitations", 0),
            ):
                _set_ipv6("default", name, value)
            self._links: Any = IPRoute()
            self._links.link("set", index=1, state="up")
            self._links.link(
                "add", ifname=SWITCH, kind="bridge", br_stp_state=0, br_mcast_snooping=0
            )
            self._switch = self._index(SWITCH)
            self._links.link("set", index=self._switch, mtu=request.mtu, state="up")
        self.add_address(AddAddress(request.address))

    def _index(self, name: str) -> int:
        found = self._links.link_lookup(ifname=name)
        if not found:
            raise UsageError(f"find {name} in the network", "there is no such port (any more)")
        return int(found[0])

    def add_port(self, request: AddPort) -> tuple[int, ...]:
        """Make a tap and connect it. Descriptors of its queues, which are the caller's."""
        try:
            taps = open_tap(request.name, request.queues).fds
        except (HostLacksError, NoPermissionError) as error:
            raise HostLacksError(error.attempt, error.cause, _HOW_TO_HAVE_TAPS) from error
        try:
            with _told(f"connect {request.name} to the switch"):
                index = self._index(request.name)
                self._links.link(
                    "set", index=index, mtu=request.mtu, master=self._switch, state="up"
                )
        except BaseException:
            close_all(taps)
            raise
        return taps

    def set_link(self, request: SetLink) -> None:
        """Set a port up or down."""
        with _told(f"set {request.name} {'up' if request.up else 'down'}"):
            state = "up" if request.up else "down"
            self._links.link("set", index=self._index(request.name), state=state)

    def add_address(self, request: AddAddress) -> None:
        """Add an address to the switch. Raises `UsageError` for one that it has."""
        address = ipaddress.ip_interface(request.address)
        with _told(f"give the network's host the address {request.address}"):
            if address.version == 6:
                _set_ipv6(SWITCH, "disable_ipv6", 0)
            self._links.addr(
                "add",
                index=self._switch,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
            )

    def impair(self, request: Impair) -> None:
        """Have netem lose, repeat, corrupt or delay what goes to a port's guest, or take it away.

        Raises `HostLacksError` where the kernel has no netem.
        """
        index = self._index(request.name)
        nothing = Impair(request.name, 0, 0, 0, 0, 0)
        with _told(f"impair {request.name}", no_netem):
            if any(_kind(one) == "netem" for one in self._links.get_qdiscs(index)):
                self._links.tc("del", index=index, root=True)
            if request != nothing:
                wanted = {
                    "loss": request.loss,
                    "duplicate": request.duplicate,
                    "prob_corrupt": request.corrupt,
                    "delay": request.delay,
                    "jitter": request.jitter,
                }
                values = {name: value for name, value in wanted.items() if value}
                self._links.tc("add", "netem", index, "1:", **values)

    def open_socket(self, request: OpenSocket) -> socket.socket:
        """Make a socket."""
        try:
            return socket.socket(request.family, request.kind, request.protocol)
        except OSError as error:
            raise SystemCallError(
                "make a socket in the network", error.errno or 0, error.strerror or str(error)
            ) from error


def _set_ipv6(device: str, name: str, value: int) -> None:
    """Set what a device does by itself, where the kernel has IPv6. Raises `OSError`."""
    with suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{device}/{name}").write_text(str(value))


def _kind(qdisc: Any) -> str:
    return str(qdisc.get_attr("TCA_KIND"))


def no_netem(number: int) -> HostLacksError | None:
    """The error for a kernel without netem; None where `number` says something else."""
    if number != errno.ENOENT:
        return None
    return HostLacksError(
        "impair a port", "this kernel has no netem (CONFIG_NET_SCH_NETEM)", "modprobe sch_netem"
    )


@contextmanager
def _told(attempt: str, known: Callable[[int], Exception | None] | None = None) -> Iterator[None]:
    """Turn what the kernel refuses into an error of pyvmm's; `known` has one for some numbers."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        failure = None if known is None else known(error.code)
        if failure is None and error.code in (errno.EPERM, errno.EACCES):
            failure = HostLacksError(attempt, os.strerror(error.code), _HOW_TO_ALLOW)
        if failure is None and error.code == errno.EEXIST:
            failure = UsageError(attempt, "it is there already")
        raise failure or SystemCallError(attempt, error.code, os.strerror(error.code)) from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
