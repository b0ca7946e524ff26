# SPDX-License-Identifier: MIT
"""A process that boots guests, one after another: jobs come on its standard input.

What becomes of them goes to its standard output (`pyvmm.testing.matrix.frames`). It ends when its
input does, in the middle of a boot as well, so it outlives nobody who started it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio

from pyvmm.testing.matrix.frames import receive_request, send_result
from pyvmm.testing.matrix.jobs import Job, Request
from pyvmm.testing.matrix.results import BootResult

Boots = Callable[[Job, dict[str, bytes]], Awaitable[BootResult]]


def main() -> None:
    """Serve the process's standard input and output."""
    from pyvmm.testing.matrix.one_boot import boot

    # What anything else prints goes to standard error, and finds no input.
    answers = os.dup(1)
    os.dup2(2, 1)
    requests = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    trio.run(serve, requests, answers, boot)


async def serve(requests: int, answers: int, boot: Boots) -> None:
    """Do the jobs that come on the descriptor `requests` until that ends. Owns both descriptors."""
    async with (
        trio.lowlevel.FdStream(requests) as incoming,
        trio.lowlevel.FdStream(answers) as outgoing,
        trio.open_nursery() as nursery,
    ):
        # Room for one: the next job comes only when the last one is answered.
        to_do, jobs = trio.open_memory_channel[Request](1)

        async def read() -> None:
            while True:
                try:
                    request = await receive_request(incoming)
                except (EOFError, trio.BrokenResourceError):
                    nursery.cancel_scope.cancel()
                    return
                await to_do.send(request)

        nursery.start_soon(read)
        contents: dict[str, bytes] = {}
        async for request in jobs:
            contents |= request.contents
            result = await boot(request.job, contents)
            try:
                await send_result(outgoing, result)
            except trio.BrokenResourceError:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
