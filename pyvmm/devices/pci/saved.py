# SPDX-License-Identifier: MIT
"""Saved state of PCI functions: frozen values of bytes and numbers.

A value that no device can have been saved with is refused when it is made (`UsageError`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.errors import UsageError

CONFIG_BYTES = 256
MSIX_ROW = 16


def _require(*, holds: bool, of: object, part: str) -> None:
    if not holds:
        raise UsageError(
            f"restore a device from a {type(of).__name__}",
            f"no device was ever saved with such {part}",
            "save it again",
        )


@dataclass(frozen=True, slots=True)
class SavedConfigSpace:
    """Contents of a configuration space."""

    contents: bytes

    def __post_init__(self) -> None:
        _require(holds=len(self.contents) == CONFIG_BYTES, of=self, part="contents")


@dataclass(frozen=True, slots=True)
class SavedMsix:
    """State of MSI-X: its table as a driver reads it, the vectors that are pending, its switches.

    `masked` is the function's mask.
    """

    table: bytes
    pending: tuple[int, ...]
    enabled: bool
    masked: bool

    def __post_init__(self) -> None:
        rows, rest = divmod(len(self.table), MSIX_ROW)
        _require(holds=rest == 0, of=self, part="table")
        _require(holds=all(0 <= vector < rows for vector in self.pending), of=self, part="pending")
