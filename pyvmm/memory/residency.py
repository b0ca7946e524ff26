# SPDX-License-Identifier: MIT
"""Resident bytes of a region's memory, beside the bytes in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Residency:
    """One region, named `what`; all else in bytes.

    `shared_bytes` and `private_bytes` are the pages in either state; `shared_resident` and
    `private_resident` are the pages that the kernel holds for either side.
    """

    what: str
    shared_bytes: int
    shared_resident: int
    private_bytes: int
    private_resident: int

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return asdict(self)
