# SPDX-License-Identifier: MIT
"""Model of a virtio 9P transport (virtio 1.3, 5.13.7; Linux's ``net/9p/trans_virtio.c``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pyvmm.devices.p9.session import Session
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.devices.p9.fids import FidState
    from pyvmm.devices.virtio.saved import SavedShare

DEVICE_ID: Final = 9
FEATURE_TAG: Final = 1 << 0
QUEUE_SIZE: Final = 128
"""Descriptors: Linux puts so many into a request, whatever the queue has (VIRTQUEUE_NUM)."""
MOST_TAG: Final = 31
"""Longest tag in bytes: the longest that QEMU takes, and a mount command passes on."""


class P9Model:
    """`DeviceModel` of a shared folder: the tag that it is mounted by, and its session.

    The session is the handler's, which works in a thread. So a reset, or a saved state, is noted
    here, and the handler takes it up before the next message (`take_up`). Raises `UsageError` for a
    tag that is empty or too long.
    """

    kind = DEVICE_ID
    features = FEATURE_TAG
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self, tag: str, session: Session) -> None:
        name = tag.encode("utf-8", "surrogateescape")
        if not 0 < len(name) <= MOST_TAG or b"\0" in name:
            raise UsageError(
                f"share a folder as {tag!r}",
                f"a tag has 1 to {MOST_TAG} bytes",
                "give a shorter one",
            )
        self.session = session
        self._config = len(name).to_bytes(2, "little") + name
        # The last one counts, however many a driver's resets make.
        self._wanted: deque[tuple[int, Sequence[FidState]]] = deque(maxlen=1)

    def config(self) -> bytes:
        """The tag's length, and the tag."""
        return self._config

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is the driver's to change."""

    def accept(self, features: int) -> bool:
        """Any of them, and none: the tag is there all the same."""
        del features
        return True

    def reset(self) -> None:
        """Have the session forgotten before the next message."""
        self._wanted.append((0, ()))

    def save(self) -> SavedShare:
        """The session as it is, or is to be; no message is under way."""
        from pyvmm.devices.virtio.saved import SavedShare

        size, fids = self._wanted[-1] if self._wanted else self.session.save()
        return SavedShare(size, tuple(fids))

    def restore(self, value: Any) -> None:
        """Have the session that was saved taken up before the next message."""
        self._wanted.append((value.message_size, value.fids))

    def take_up(self) -> None:
        """Make the session what it is to be. Not under the guard: it may open files."""
        value = None
        while self._wanted:
            value = self._wanted.popleft()
        if value is not None:
            self.session.restore(*value)
