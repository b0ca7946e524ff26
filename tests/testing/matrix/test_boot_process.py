# SPDX-License-Identifier: MIT
"""A process that boots, from inside: it takes jobs, and ends with its input."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from pyvmm.testing.matrix.boot_process import serve
from pyvmm.testing.matrix.frames import receive_result, send_request
from pyvmm.testing.matrix.jobs import ImageFiles, Job, Request
from pyvmm.testing.matrix.matrix_file import parse_matrix
from pyvmm.testing.matrix.results import BootResult, Verdict


def jobs(tmp_path: Path) -> tuple[list[Job], dict[str, bytes]]:
    (tmp_path / "a").write_bytes(b"image")
    matrix = parse_matrix("hosts = ['kvm', 'model']\n[[image]]\npath = 'a'\n", "m.toml")
    files = ImageFiles()
    files.read(matrix, tmp_path)
    return [files.job(boot) for boot in matrix.boots()], files.contents


def test_it_remembers_files_and_ends_with_its_input_in_the_middle_of_a_boot(tmp_path: Path) -> None:
    (first, second), contents = jobs(tmp_path)
    ended: list[str] = []

    async def boot(job: Job, files: dict[str, bytes]) -> BootResult:
        if job == first:
            return BootResult(job.boot.key, Verdict.PASSED, console=files[job.image])
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            ended.append(job.boot.key)

    async def main() -> None:
        (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
        async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(from_it) as answers:
            nursery.start_soon(serve, from_us, to_us, boot)
            async with trio.lowlevel.FdStream(to_it) as requests:
                await send_request(requests, Request(first, contents))
                assert await receive_result(answers) == BootResult(
                    first.boot.key, Verdict.PASSED, console=b"image"
                )
                await send_request(requests, Request(second, {}))
                await begun.wait()
            assert await answers.receive_some() == b""

    begun = trio.Event()
    trio.run(main)
    assert ended == [second.boot.key]


def test_it_ends_where_nobody_takes_its_answers(tmp_path: Path) -> None:
    (first, _), contents = jobs(tmp_path)

    async def boot(job: Job, files: dict[str, bytes]) -> BootResult:
        return BootResult(job.boot.key, Verdict.PASSED)

    async def main() -> None:
        (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
        os.close(from_it)
        async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(to_it) as requests:
            nursery.start_soon(serve, from_us, to_us, boot)
            await send_request(requests, Request(first, contents))

    trio.run(main)
