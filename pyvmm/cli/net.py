# SPDX-License-Identifier: MIT
"""``pyvmm net``: networks that several guests share, from a file (docs/network.md)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.standard_error import say_to_user
from pyvmm.cli.standard_output import columns, print_answer
from pyvmm.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pyvmm.cli.ending_signals import EndingSignals
    from pyvmm.net.found import FoundDevice, FoundTopology
    from pyvmm.net.topology import Topology

_FILE_MAX = 1 << 20
_SUFFIX = ".toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    up = commands.add_parser(
        "up",
        help="Make the bridges, namespaces, taps, veths and routes that a file asks for.",
        allow_abbrev=False,
    )
    up.add_argument("file", type=Path, metavar="FILE", help="the topology, in TOML")
    up.set_defaults(call=_up)
    down = commands.add_parser(
        "down", help="Remove all that up made of a topology, and nothing else.", allow_abbrev=False
    )
    down.add_argument(
        "topology", nargs="?", metavar="NAME",
        help="the topology, or its file; may be left out where there is one only",
    )  # fmt: skip
    down.add_argument(
        "--force", action="store_true", help="remove it even where a tap of it is in use"
    )
    down.set_defaults(call=_down)
    status = commands.add_parser(
        "status", help="Draw the topologies that are up.", allow_abbrev=False
    )
    status.add_argument(
        "topology", nargs="?", metavar="NAME",
        help="this topology only, or that of a file; 69 if it is not up",
    )  # fmt: skip
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(call=_status)


def command(options: argparse.Namespace) -> int:
    """Unreachable: each command of ``pyvmm net`` has set its own call."""
    raise UsageError("run pyvmm net", f"it needs a command, not {options}")


def _read(path: Path) -> Topology:
    from pyvmm.machine.image_file import read_input
    from pyvmm.net.topology_file import parse_topology

    content = read_input(path, _FILE_MAX, "a topology's file may be")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"read the topology {path}", f"it is no UTF-8 (byte {error.start})", "save it as that"
        ) from None
    return parse_topology(text, str(path), path.name.removesuffix(_SUFFIX))


def _wait() -> None:
    say_to_user("waiting for another pyvmm net to end")


def _up(options: argparse.Namespace) -> int:
    from pyvmm.net.topologies import Became, only_one, put_up

    topology = _read(options.file)
    ending: EndingSignals = options.ending_signals

    def check() -> None:
        if ending.has_held:
            raise KeyboardInterrupt

    with only_one(_wait):
        ending.hold()
        try:
            became = put_up(topology, check)
        except KeyboardInterrupt:
            ending.raise_held()
            raise
    words = {
        Became.MADE: "is up",
        Became.MADE_ANEW: "is up, made anew: what was there of it had not been finished",
        Became.WAS_UP: "is up already",
    }
    print_answer(f"the topology {topology.name} {words[became]} ({_objects(topology.count)})")
    return ExitCode.OK


def _objects(count: int) -> str:
    return f"{count} object{'s' if count != 1 else ''}"


def _named(given: str) -> str:
    """Name of a topology that was given by name, or by its file."""
    return _read(Path(given)).name if "/" in given or given.endswith(_SUFFIX) else given


def _down(options: argparse.Namespace) -> int:
    from pyvmm.net.topologies import only_one, take_down

    name = None if options.topology is None else _named(options.topology)
    with only_one(_wait):
        if name is None:
            name = _only_name()
        if name is None:
            print_answer("no topology is up")
            return ExitCode.OK
        options.ending_signals.hold()
        count = take_down(name, force=options.force)
    removed = f"the topology {name} is down ({_objects(count)} removed)"
    print_answer(removed if count else f"no topology {name} is up")
    return ExitCode.OK


def _only_name() -> str | None:
    from pyvmm.net.finding import Survey

    names = [found.name for found in Survey().topologies()]
    if len(names) > 1:
        raise UsageError(
            "take a topology down", f"there are {', '.join(names)}", "say which, by its name"
        )
    return names[0] if names else None


def _status(options: argparse.Namespace) -> int:
    from pyvmm.net.finding import Survey
    from pyvmm.net.topology_drawing import drawn

    name = None if options.topology is None else _named(options.topology)
    survey = Survey(in_full=True)
    found = survey.topologies() if name is None else (survey.topology(name),)
    there = [one for one in found if one.count or one.leftovers]
    if options.json:
        print_answer(json.dumps({"topologies": [_as_json(one) for one in there]}, indent=2))
    elif there:
        print_answer("\n\n".join(drawn(one, columns()) for one in there))
    else:
        print_answer("no topology is up" if name is None else f"no topology {name} is up")
    return ExitCode.OK if there or name is None else ExitCode.HOST_LACKS


def _as_json(found: FoundTopology) -> dict[str, object]:
    return {
        "name": found.name,
        "complete": found.is_whole,
        "objects": found.count,
        "total": found.total or None,
        "namespaces": [one.name for one in found.namespaces],
        "devices": [_device_as_json(one) for one in found.devices],
    }


def _device_as_json(device: FoundDevice) -> dict[str, object]:
    return {
        "name": device.name,
        "kind": device.mark.kind.value if device.mark else None,
        "namespace": device.namespace,
        "bridge": device.bridge,
        "addresses": list(device.addresses),
        "notes": list(device.mark.notes) if device.mark else [],
        "routes": [{"to": to, "via": via} for to, via in device.routes],
        "mtu": device.mtu,
        "up": device.is_up,
        "in_use": device.is_in_use,
    }
