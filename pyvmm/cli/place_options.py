# SPDX-License-Identifier: MIT
"""``KIND:PATH[,NAME=on|off...]``: where the console and QMP go, as QEMU's options write it.

A comma in the path is doubled; ``server``, ``wait`` and ``nowait`` are short for ``server=on``,
``wait=on`` and ``wait=off`` (QEMU's manual on -chardev and -serial; ``util/qemu-option.c``).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

Switches = Mapping[str, tuple[bool, ...]]
"""Names of switches, each with the values that it may have."""

_VALUES = {"on": True, "off": False}
_SHORT = {"server": "server=on", "wait": "wait=on", "nowait": "wait=off"}
_LISTENS = "pyvmm listens there and connects to nothing"
_A_FILE = "a socket is a file here, which its mode protects"
_WHY_NOT = {"server": _LISTENS, "reconnect": _LISTENS, "reconnect-ms": _LISTENS} | dict.fromkeys(
    ("abstract", "tight"), _A_FILE
)


def parse_place(
    text: str, kinds: Mapping[str, Switches], usage: str
) -> tuple[str, Path, dict[str, bool]]:
    """Read an option whose kind is among `kinds`: the kind, the path, the switches that are given.

    Raises `argparse.ArgumentTypeError`, which says `usage` where it is no such option at all.
    """
    kind, _, rest = text.partition(":")
    # No argument has a zero byte, so that it can stand for a comma of the path meanwhile.
    path, *options = rest.replace(",,", "\0").split(",")
    if kind not in kinds or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {usage}")
    switches = dict(_switch(option, kinds[kind]) for option in options)
    return kind, Path(path.replace("\0", ",")), switches


def _switch(option: str, known: Switches) -> tuple[str, bool]:
    option = option.replace("\0", ",,")
    name, _, word = _SHORT.get(option, option).partition("=")
    value = _VALUES.get(word)
    if name in known and value is not None and value in known[name]:
        return name, value
    reason = _WHY_NOT.get(name)
    if reason is None:
        words = {on: word for word, on in _VALUES.items()}
        may_be = [f"{one}={words[on]}" for one, values in known.items() for on in values]
        reason = f"it may be {', '.join(may_be)}; a comma of the path is doubled"
    raise argparse.ArgumentTypeError(f"{option!r} cannot be: {reason}")
