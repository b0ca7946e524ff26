# SPDX-License-Identifier: MIT
"""What a core of the monitor has of the guest's memory: nothing, or all of it once."""

from __future__ import annotations

import mmap
import os
import resource
import signal
from pathlib import Path

import pytest

from .command import ending, start

SECRET = b"a guest's secret, made when it runs"
_CIPHER = 0x55


def _image() -> bytes:
    """A flat guest that puts `SECRET` at 0x9000, which its image does not have; says so; loops."""
    code = bytes.fromhex(
        "be1b7c bf0090"  # mov si, 0x7c1b; mov di, 0x9000
        f"b9{len(SECRET):02x}00"  # mov cx, the length
        "ac 3455 aa e2fa"  # again: lodsb; xor al, 0x55; stosb; loop again
        "b021 e6e9"  # mov al, '!'; out 0xe9, al
        "ebfe"  # jmp to itself
    )
    return code.ljust(0x1B, b"\x90") + bytes(byte ^ _CIPHER for byte in SECRET)


def core_of_a_run(folder: Path, *options: str) -> Path:
    """The core of a monitor that is aborted while its guest has the secret."""
    where = Path("/proc/sys/kernel/core_pattern")
    if not where.exists():
        pytest.skip("the kernel writes no cores (CONFIG_COREDUMP)")
    pattern = where.read_text().strip()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip(f"cores go to {pattern}, not into the working folder")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("cores are limited (ulimit -H -c)")
    image = folder / "secret.img"
    image.write_bytes(_image())

    def prepare() -> None:
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    process = start("run", image, "-m", "2M", *options, preparation=prepare)
    with ending(process):
        assert process.stdout is not None
        assert process.stdout.read(1) == b"!"
        process.send_signal(signal.SIGABRT)
        assert process.wait() == -signal.SIGABRT
    (core,) = folder.glob("core*")
    return core


def count(core: Path, what: bytes) -> int:
    with core.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found, at = 0, data.find(what)
        while at >= 0:
            found, at = found + 1, data.find(what, at + 1)
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", [pytest.param("kvm", marks=pytest.mark.kvm), pytest.param("model")]
)
@pytest.mark.parametrize(("options", "times"), [((), 0), (("--dump-guest-core", "on"), 1)])
def test_a_core_has_guest_memory_once_where_asked_for(
    tmp_path: Path, host: str, options: tuple[str, ...], times: int
) -> None:
    core = core_of_a_run(tmp_path, "--host", host, *options)
    assert count(core, bytes(byte ^ _CIPHER for byte in SECRET)) > 0, "it is no core of that run"
    assert count(core, SECRET) == times
