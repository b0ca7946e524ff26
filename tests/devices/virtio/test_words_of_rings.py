# SPDX-License-Identifier: MIT
"""Words that a driver looks at while the device writes them: each is one store.

`Struct.pack_into` is two: it clears the bytes, then fills them, and a driver on another processor
reads a used index of 0 in between.
"""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

import pytest

from pyvmm.devices.virtio import packed_ring, split_ring
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.packed_ring import PackedRing
from pyvmm.devices.virtio.rings import Chain, QueueLayout, QueuePlace, QueuePosition, Ring
from pyvmm.devices.virtio.split_ring import SplitRing

SIZE = 4
CHAIN = Chain(0, (), ())
RINGS: list[tuple[ModuleType, type[SplitRing | PackedRing], Feature]] = [
    (split_ring, SplitRing, Feature(0)),
    (split_ring, SplitRing, Feature.EVENT_INDEX),
    (packed_ring, PackedRing, Feature.PACKED),
    (packed_ring, PackedRing, Feature.PACKED | Feature.EVENT_INDEX),
]


class Watched:
    """A `Struct` that notes what it fills."""

    def __init__(self, real: struct.Struct, filled: set[tuple[int, int]]) -> None:
        self._real = real
        self._filled = filled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def pack_into(self, buffer: memoryview, offset: int, *values: int) -> None:
        self._filled.update((id(buffer.obj), offset + at) for at in range(self._real.size))
        self._real.pack_into(buffer, offset, *values)


@pytest.mark.parametrize(("module", "kind", "features"), RINGS)
def test_what_a_driver_waits_for_is_written_at_once(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    kind: type[SplitRing | PackedRing],
    features: Feature,
) -> None:
    filled: set[tuple[int, int]] = set()
    for name, value in vars(module).copy().items():
        if isinstance(value, struct.Struct):
            monkeypatch.setattr(module, name, Watched(value, filled))
    layout = QueueLayout(QueuePlace(SIZE, 0, 0, 0), features)
    parts = [bytearray(length) for _, length in layout.ranges]
    ring: Ring = kind(layout, [memoryview(part) for part in parts], QueuePosition())
    for _ in range(2 * SIZE):
        ring.ask_for_notifications(True)
        ring.ask_for_notifications(False)
        ring.put_used([(CHAIN, 16)])
    descriptors, _, device = parts
    assert filled, "entries are filled in any way"
    if layout.is_packed:
        words = {(id(descriptors), 16 * number + at) for number in range(SIZE) for at in (14, 15)}
        words |= {(id(device), at) for at in range(4)}
    else:
        words = {(id(device), at) for at in (*range(4), 4 + 8 * SIZE, 5 + 8 * SIZE)}
    assert not filled & words
