# SPDX-License-Identifier: MIT
"""The options that say which hardware a machine has beside that of every machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyvmm.cli.sizes import parse_count

if TYPE_CHECKING:
    from pyvmm.machine.hardware import (
        Disk,
        Hardware,
        NetCard,
        NumaNode,
        PortChoice,
        RingFeature,
        Share,
        Transport,
        Vsock,
    )

DESTINATION = "hardware_"
"""Beginning of the destination of each option here; behind it is the name of `Hardware`'s field."""


def add_hardware_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for devices beside those that every machine has."""
    parser.add_argument(
        "--disk", type=_disk, action="append", dest=f"{DESTINATION}disks", metavar="FILE[,...]",
        help="a virtio disk with a file's contents: format=raw, readonly=on, serial=S, ...",
    )  # fmt: skip
    parser.add_argument(
        "--rng", action="store_true", default=None, dest=f"{DESTINATION}rng",
        help="a virtio entropy device: random bytes of this machine's",
    )  # fmt: skip
    parser.add_argument(
        "--transport", type=_transport, dest=f"{DESTINATION}transport", metavar="pci|mmio",
        help="how the guest reaches virtio devices (default: pci)",
    )  # fmt: skip
    parser.add_argument(
        "--rings", type=_rings, dest=f"{DESTINATION}rings", metavar="F[,F]",
        help="what virtio devices offer beside split rings: packed, notification-data",
    )  # fmt: skip
    parser.add_argument(
        "--balloon", action="store_true", default=None, dest=f"{DESTINATION}balloon",
        help="a virtio balloon: memory that the guest gives up, or reports free, is the host's",
    )  # fmt: skip
    parser.add_argument(
        "--acpi", type=_switch, dest=f"{DESTINATION}acpi", metavar="on|off",
        help="ACPI tables, whatever the image says (default: unless it is made for pyvmm)",
    )  # fmt: skip
    parser.add_argument(
        "--numa", type=_node, action="append", dest=f"{DESTINATION}nodes", metavar="SIZE[,...]",
        help="a NUMA node: cpus=0-1, and its memory on the host's: policy=bind, host-nodes=0",
    )  # fmt: skip
    parser.add_argument(
        "--share", type=_share, action="append", dest=f"{DESTINATION}shares", metavar="TAG=DIR",
        help="a folder that the guest mounts by its tag (9p), for reading; ,readonly=off",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=_port, action="append", dest=f"{DESTINATION}ports", metavar="NAME=PATH",
        help="a port of the guest's (virtio console), as a Unix socket at PATH",
    )  # fmt: skip
    parser.add_argument(
        "--vsock", type=_vsock, dest=f"{DESTINATION}vsock", metavar="cid=N,path=P",
        help="sockets between guest and host (virtio): the guest is N, the host's side at P",
    )  # fmt: skip
    parser.add_argument(
        "--net", type=_card, action="append", dest=f"{DESTINATION}cards", metavar="KIND[,...]",
        help="a network card (virtio): user,hostfwd=tcp::2222-:22, or tap=NAME,bridge=BR, ...",
    )  # fmt: skip


def add_cpus_argument(parser: argparse.ArgumentParser) -> None:
    """Option for the number of vCPUs, and for what a topology they have."""
    parser.add_argument(
        "--cpus", "-smp", action=_CpusAction, default=1, metavar="N[,...]",
        help="number of vCPUs; their topology: sockets=S, cores=C, threads=T",
    )  # fmt: skip


class _CpusAction(argparse.Action):
    """Number of vCPUs, with a topology where one is said (`pyvmm.cli.cpus_option`)."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        count, comma, levels = str(values).partition(",")
        try:
            setattr(namespace, self.dest, parse_count(count))
            said = None
            if comma:
                from pyvmm.cli.cpus_option import parse_levels  # Most machines have none.

                said = parse_levels(levels)
            setattr(namespace, f"{DESTINATION}topology", said)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def hardware_of(options: argparse.Namespace) -> Hardware | None:
    """Collect what the options ask for; None where they ask for nothing. Raises `UsageError`."""
    given: dict[str, Any] = {
        name.removeprefix(DESTINATION): tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name.startswith(DESTINATION) and value not in (None, [])
    }
    if not given:
        return None
    if "topology" in given:
        from pyvmm.hosts.topology import Topology  # Most machines have none.

        given["topology"] = Topology(options.cpus, **given["topology"])
    from pyvmm.machine.hardware import Hardware  # Most machines have none of it.

    return Hardware(**given)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be: it is on or off")
    return text == "on"


def _transport(text: str) -> Transport:
    from pyvmm.machine.hardware import Transport

    try:
        return Transport(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be: it is pci or mmio") from None


def _rings(text: str) -> list[RingFeature]:
    from pyvmm.cli.named_values import one_of
    from pyvmm.machine.hardware import RingFeature

    return [one_of(RingFeature, "--rings", name) for name in text.split(",")]


def _disk(text: str) -> Disk:
    from pyvmm.cli.disk_option import parse_disk  # Most machines have none.

    return parse_disk(text)


def _node(text: str) -> NumaNode:
    from pyvmm.cli.numa_option import parse_node

    return parse_node(text)


def _share(text: str) -> Share:
    from pyvmm.cli.share_option import parse_share

    return parse_share(text)


def _port(text: str) -> PortChoice:
    from pyvmm.cli.share_option import parse_port

    return parse_port(text)


def _vsock(text: str) -> Vsock:
    from pyvmm.cli.vsock_option import parse_vsock

    return parse_vsock(text)


def _card(text: str) -> NetCard:
    from pyvmm.cli.net_option import parse_net

    return parse_net(text)
