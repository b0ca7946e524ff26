# SPDX-License-Identifier: MIT
"""Messages between a process that boots and who started it: a length, then so many bytes.

A request is a pickle: it comes from who started the process. A result is not (`result_bytes`):
the process may be one that a guest has taken over.
"""

from __future__ import annotations

import pickle
import struct

import trio

from pyvmm.testing.matrix.jobs import Request
from pyvmm.testing.matrix.result_bytes import from_bytes, to_bytes
from pyvmm.testing.matrix.results import BootResult

RESULT_MAX = 64 << 20
"""Bytes that a result may have. A console that travels is a fiftieth of it."""
_LENGTH = struct.Struct(">Q")


async def send_request(stream: trio.abc.SendStream, request: Request) -> None:
    """Send it whole. Raises `trio.BrokenResourceError` where nobody reads any more."""
    await _send(stream, pickle.dumps(request, pickle.HIGHEST_PROTOCOL))


async def receive_request(stream: trio.abc.ReceiveStream) -> Request:
    """Receive one, from who started this process. Raises `EOFError` where the stream ends."""
    request = pickle.loads(await _receive(stream))
    assert isinstance(request, Request)
    return request


async def send_result(stream: trio.abc.SendStream, result: BootResult) -> None:
    """Send it whole. Raises `trio.BrokenResourceError` where nobody reads any more."""
    await _send(stream, to_bytes(result))


async def receive_result(stream: trio.abc.ReceiveStream) -> BootResult:
    """Receive one, whoever sent it.

    Raises `EOFError` where the stream ends before it is whole, `ValueError` where it is no result.
    """
    return from_bytes(await _receive(stream, RESULT_MAX))


async def _send(stream: trio.abc.SendStream, content: bytes) -> None:
    await stream.send_all(_LENGTH.pack(len(content)))
    await stream.send_all(content)


async def _receive(stream: trio.abc.ReceiveStream, most: int | None = None) -> bytes:
    (length,) = _LENGTH.unpack(await _exactly(stream, _LENGTH.size))
    if most is not None and length > most:
        raise ValueError(f"it has {length} bytes, more than {most}")
    return await _exactly(stream, length)


async def _exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        some = await stream.receive_some(min(size - len(content), 1 << 20))
        if not some:
            raise EOFError(f"the stream ended after {len(content)} of {size} bytes")
        content += some
    return bytes(content)
