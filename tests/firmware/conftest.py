# SPDX-License-Identifier: MIT
"""The firmware, built before the first test that wants it, and what it is run with."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.boot.launch import LaunchImage, LaunchRun
from pyvmm.boot.plan import Placement
from pyvmm.memory.layout import GpaRange

from .building import build_host_program, build_payload, make
from .launching import ENTRY, START_INFO


@pytest.fixture(scope="session")
def firmware() -> bytes:
    """The image, up to date."""
    make("--silent")
    return bundled_guests.firmware()


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> LaunchImage:
    """``payload.S`` and a start info, which is never looked at."""
    code = build_payload(tmp_path_factory.mktemp("payload") / "payload.bin")
    return LaunchImage(
        (
            LaunchRun(
                GpaRange(START_INFO & ~4095, (START_INFO & ~4095) + 4096),
                (Placement(START_INFO, b"start info", "the start info"),),
            ),
            LaunchRun(GpaRange(ENTRY, ENTRY + 4096), (Placement(ENTRY, code, "code"),)),
        ),
        ENTRY,
        START_INFO,
    )


@dataclass(frozen=True)
class OnHost:
    """The firmware's code in a process of this host."""

    ask: Callable[[int, int, bytes, int], bytes]

    def sha384(self, data: bytes, step: int | None = None) -> bytes:
        """The digest of `data`, given in parts of `step` bytes (None: all at once)."""
        return self.ask(0, step or len(data) or 1, data, 48)

    def complaint(self, block: bytes) -> int | None:
        """Where in a boot block the first fault is, as an offset in bytes."""
        (where,) = struct.unpack("<Q", self.ask(1, 0, block, 8))
        return None if where == (1 << 64) - 1 else where


@pytest.fixture(scope="session")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnHost]:
    program: Path = tmp_path_factory.mktemp("on_host") / "on_host"
    build_host_program(program)
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        def ask(kind: int, step: int, data: bytes, size: int) -> bytes:
            stdin.write(struct.pack("<QQQ", kind, len(data), step) + data)
            stdin.flush()
            answer = stdout.read(size)
            assert len(answer) == size, stderr.read().decode()
            return answer

        yield OnHost(ask)
        process.stdin.close()
        assert process.wait() == 0
