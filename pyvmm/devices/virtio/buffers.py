# SPDX-License-Identifier: MIT
"""Bytes that lie in several views one behind the other, as a chain of descriptors has them."""

from __future__ import annotations

from collections.abc import Sequence


def split(views: Sequence[memoryview], size: int) -> tuple[bytes, list[memoryview]]:
    """The first `size` bytes of `views`, copied, and what is behind them."""
    head, rest = b"", []
    for view in views:
        taken = min(size - len(head), len(view))
        head += view[:taken]
        if taken < len(view):
            rest.append(view[taken:])
    return head, rest


def first(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """Views of the first `size` bytes."""
    found = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found


def put(views: Sequence[memoryview], data: bytes) -> int:
    """Write `data` to the beginning of `views`, which have room for it. Return its length."""
    at = 0
    for view in views:
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
        if at >= len(data):
            break
    return len(data)
