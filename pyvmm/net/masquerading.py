# SPDX-License-Identifier: MIT
"""Masquerading of what leaves a bridge's subnets, by nftables through pyroute2.

Each owner's is a table of its own, whose name is the owner mark: it is there from the table's first
moment on, and all that belongs to it goes with the table. For threads as `pyvmm.net.links` is.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError

if TYPE_CHECKING:
    from pyroute2.nftables.main import NFTables

_PREFIX: Final = "pyvmm-"
_CHAIN: Final = "postrouting"
_SOURCE_NAT: Final = 100
"""Priority (NF_IP_PRI_NAT_SRC)."""
_ACCEPT: Final = 1
_LONGEST_DEVICE: Final = 16
"""Bytes of a device's name, padded (IFNAMSIZ)."""
_FAMILIES: Final = {4: 2, 6: 10}
"""Families of tables (NFPROTO_IPV4, NFPROTO_IPV6) by IP version."""
_VERSIONS: Final = {family: version for version, family in _FAMILIES.items()}
_SOURCE_OFFSETS: Final = {4: 12, 6: 8}
"""Bytes before the source address in an IP header (RFC 791, RFC 8200)."""


def masquerade(owner: str, bridges: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Give packets from the subnets (CIDR) of bridges that leave the calling thread's network
    namespace by another device that device's address.

    Raises `HostLacksError` without pyroute2 or nftables, `NoPermissionError`, `SystemCallError`.
    """
    rules: dict[int, list[list[dict[str, Any]]]] = {}
    for bridge, subnets in bridges:
        for subnet in subnets:
            network = ipaddress.ip_interface(subnet).network
            rules.setdefault(network.version, []).append(_rule(bridge, network))
    attempt = f"masquerade for {owner}"
    for version, expressions in rules.items():
        with _opened(attempt, _FAMILIES[version]) as tables:
            table = _PREFIX + owner
            tables.table("create", name=table)
            tables.chain(
                "add",
                table=table,
                name=_CHAIN,
                hook=_CHAIN,
                type="nat",
                priority=_SOURCE_NAT,
                policy=_ACCEPT,
            )
            for each in expressions:
                tables.rule("add", table=table, chain=_CHAIN, expressions=(each,))


def masquerading_owners() -> set[str]:
    """Find the owners that masquerade in the calling thread's network namespace.

    Raises as `masquerade`.
    """
    owners = set()
    for family in _FAMILIES.values():
        with _opened("list the tables of nftables", family) as tables:
            for message in tables.get_tables():
                name = str(message.get_attr("NFTA_TABLE_NAME"))
                if name.startswith(_PREFIX):
                    owners.add(name.removeprefix(_PREFIX))
    return owners


def unmasquerade(owner: str) -> None:
    """Remove what `masquerade` has made for an owner; nothing is no error. Raises as it does."""
    for family in _FAMILIES.values():
        try:
            with _opened(f"end the masquerading for {owner}", family) as tables:
                tables.table("del", name=_PREFIX + owner)
        except SystemCallError as error:
            if error.errno != errno.ENOENT:
                raise


def _rule(bridge: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[Any]:
    """As ``ip saddr NETWORK oifname != BRIDGE masquerade``.

    pyroute2's own expressions for addresses are no good: the masks that they make of prefixes which
    do not end with a byte are wrong.
    """
    from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
    from pyroute2.nftables.expressions import genex

    def data(value: bytes) -> dict[str, Any]:
        return {"attrs": [("NFTA_DATA_VALUE", value)]}

    register, size = Regs.NFT_REG_1, network.max_prefixlen // 8
    device = bridge.encode().ljust(_LONGEST_DEVICE, b"\0")
    offset = _SOURCE_OFFSETS[network.version]
    mask, zero = data(network.netmask.packed), data(bytes(size))
    return [
        genex("payload", {"dreg": register, "base": 1, "offset": offset, "len": size}),
        genex(
            "bitwise",
            {"sreg": register, "dreg": register, "len": size, "mask": mask, "xor": zero},
        ),
        genex(
            "cmp",
            {
                "sreg": register,
                "op": Cmp.NFT_CMP_EQ,
                "data": data(network.network_address.packed),
            },
        ),
        genex("meta", {"key": Meta.NFT_META_OIFNAME, "dreg": register}),
        genex("cmp", {"sreg": register, "op": Cmp.NFT_CMP_NEQ, "data": data(device)}),
        genex("masq", {}),
    ]


@contextmanager
def _opened(attempt: str, family: int) -> Iterator[NFTables]:
    """Open a socket of the calling thread's network namespace, and turn errors into ours."""
    try:
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.nftables.main import NFTables
    except ImportError as error:
        cause, remedy = "pyroute2 is not installed", "pip install 'pyvmm[net]'"
        raise HostLacksError(attempt, cause, remedy) from error
    lacks = HostLacksError(
        attempt,
        f"the host's kernel has no nftables for IPv{_VERSIONS[family]}",
        "modprobe nf_tables; or do without",
    )
    try:
        with NFTables(nfgen_family=family) as tables:
            # Where nothing can be changed this says so. Changes, which are batches, are answered
            # there by one error for all, of which pyroute2 does not know whose it is: it waits.
            tables.get_tables()
            yield tables
    except NetlinkError as error:
        number = int(error.code)
        if number in (errno.EPERM, errno.EACCES):
            cause = "it needs CAP_NET_ADMIN in its network namespace"
            raise NoPermissionError(attempt, cause, "do it as root") from error
        if number in (errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            raise lacks from error
        raise SystemCallError(attempt, number, os.strerror(number)) from error
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            raise lacks from error
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
