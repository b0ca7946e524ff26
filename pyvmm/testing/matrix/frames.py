# SPDX-License-Identifier: MIT
"""Values between a process that boots and who started it: a length, then a pickle.

Both ends are the same pyvmm, and one started the other: nothing that comes here is a stranger's.
"""

from __future__ import annotations

import pickle
import struct

import trio

_LENGTH = struct.Struct(">Q")


async def send(stream: trio.abc.SendStream, value: object) -> None:
    """Send `value` whole. Raises `trio.BrokenResourceError` where nobody reads any more."""
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    await stream.send_all(_LENGTH.pack(len(content)))
    await stream.send_all(content)


async def receive(stream: trio.abc.ReceiveStream) -> object:
    """Receive a value. Raises `EOFError` where the stream ends before it is whole."""
    (length,) = _LENGTH.unpack(await _exactly(stream, _LENGTH.size))
    return pickle.loads(await _exactly(stream, length))


async def _exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        some = await stream.receive_some(min(size - len(content), 1 << 20))
        if not some:
            raise EOFError(f"the stream ended after {len(content)} of {size} bytes")
        content += some
    return bytes(content)
