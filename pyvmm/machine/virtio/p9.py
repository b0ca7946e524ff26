# SPDX-License-Identifier: MIT
"""The virtio device by which a guest mounts a shared folder."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import trio

from pyvmm.devices.p9.session import Session
from pyvmm.devices.virtio.p9 import P9Model
from pyvmm.errors import UsageError
from pyvmm.machine.hardware import Share
from pyvmm.machine.share.folder import Folder, open_folder
from pyvmm.machine.share.handles import HostFolder
from pyvmm.machine.virtio.queue_handler import BoundChain, VirtioDevice

_SHARE_OF_FILES: Final = 4
"""The part of the files that this process may have open which all folders together may take."""


def share_devices(shares: Sequence[Share], stack: ExitStack) -> Iterator[VirtioDevice]:
    """Open folders and make a device of each; `stack` gets what they own.

    Raises `UsageError` for two of one tag, and what `open_folder` raises.
    """
    tags = [share.tag for share in shares]
    for tag in tags:
        if tags.count(tag) > 1:
            raise UsageError(
                f"share two folders as {tag}", "a guest mounts them by their tags", "rename one"
            )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = soft // _SHARE_OF_FILES // max(len(shares), 1)
    for share in shares:
        folder = open_folder(share.path, read_only=share.read_only, descriptors=each)
        stack.callback(folder.close)
        yield p9_device(folder, share.tag)


def p9_device(folder: Folder, tag: str) -> VirtioDevice:
    """Make a device that shares `folder` as `tag`.

    The folder stays its owner's. Raises `UsageError` for a tag that is none.
    """
    model = P9Model(tag, Session(HostFolder(folder)))
    return VirtioDevice(f"shared folder {tag}", model, P9Handler(model))


class P9Handler:
    """Answers messages, one after the other, each in a thread: a file system may make it wait."""

    def __init__(self, model: P9Model) -> None:
        self._model = model
        self._session = trio.Lock()
        self.on_ready: Callable[[int], None]
        self.on_config_change: Callable[[], None]

    def is_ready(self, queue: int) -> bool:
        """True: a message can always be answered."""
        del queue
        return True

    async def serve(self) -> None:
        """Do nothing beside the queue until the end, when all files are closed."""
        try:
            await trio.sleep_forever()
        finally:
            # A message that is under way has the files in use until it is answered.
            with trio.CancelScope(shield=True):
                async with self._session:
                    self._model.session.reset()

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Answer a message. Raises `ValueError` where there is none, or no room for an answer.

        Cancelling waits for what the file system does: it may be at work on the buffers.
        """
        del queue
        async with self._session:
            return await trio.to_thread.run_sync(self._answer, chain)

    def _answer(self, chain: BoundChain) -> int:
        self._model.take_up()
        return self._model.session.answer(chain.readable, chain.writable)
