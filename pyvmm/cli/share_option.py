# SPDX-License-Identifier: MIT
"""``--share TAG=PATH[,readonly=on|off]`` and ``--port NAME=PATH``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyvmm.cli.named_values import named_values, switch
from pyvmm.devices.virtio.console import MOST_NAME
from pyvmm.devices.virtio.p9 import MOST_TAG
from pyvmm.machine.hardware import PortChoice, Share


def parse_share(text: str) -> Share:
    """Parse a value of ``--share``. Raises `argparse.ArgumentTypeError`."""
    whole, given = named_values(text, ("readonly",))
    tag, path = _pair(whole, "TAG=PATH, as in --share src=.")
    if len(tag.encode("utf-8", "surrogateescape")) > MOST_TAG:
        raise argparse.ArgumentTypeError(f"the tag {tag!r} is too long: at most {MOST_TAG} bytes")
    return Share(tag, Path(path), read_only=switch("readonly", given.get("readonly", "on")))


def parse_port(text: str) -> PortChoice:
    """Parse a value of ``--port``. Raises `argparse.ArgumentTypeError`."""
    whole, _ = named_values(text, ())
    name, path = _pair(whole, "NAME=PATH, as in --port log=log.socket")
    if "/" in name or len(name.encode("utf-8", "surrogateescape")) > MOST_NAME:
        raise argparse.ArgumentTypeError(
            f"the name {name!r} cannot be: at most {MOST_NAME} bytes, and no slash"
        )
    return PortChoice(name, Path(path))


def _pair(text: str, form: str) -> tuple[str, str]:
    first, equals, second = text.partition("=")
    if not first or not equals or not second:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return first, second
