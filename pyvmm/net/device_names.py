# SPDX-License-Identifier: MIT
"""Names of network devices. Pure."""

from __future__ import annotations

from typing import Final

LONGEST_NAME: Final = 15
"""Bytes of a network device's name (IFNAMSIZ, without the byte that ends it)."""


def name_size(name: str) -> int:
    """Bytes of a name as the kernel gets it."""
    return len(name.encode("utf-8", "surrogateescape"))


def is_device_name(name: str) -> bool:
    """Tell whether the kernel takes that name (net/core/dev.c, dev_valid_name).

    Without ``%`` as well: of ``tap%d`` it makes a name of its own choice.
    """
    return (
        0 < name_size(name) <= LONGEST_NAME
        and name not in (".", "..")
        and not any(letter in "/:%\0" or letter.isspace() for letter in name)
    )
