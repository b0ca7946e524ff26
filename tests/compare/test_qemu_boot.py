# SPDX-License-Identifier: MIT
"""How QEMU boots an image: by another protocol than pyvmm, or not at all."""

from __future__ import annotations

import gzip
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.boot.plan import BootProtocol
from pyvmm.cli.main import main
from pyvmm.compare.qemu_boot import REFUSALS, qemu_protocol, refusal
from pyvmm.errors import UsageError
from tests.boot.images import HLT, elf, multiboot_header, pvh_note
from tests.compare.fake_qemu import changed

HEADER, NOTE = multiboot_header(), pvh_note()
PVH, MULTIBOOT, FLAT = BootProtocol.PVH, BootProtocol.MULTIBOOT, BootProtocol.FLAT


@pytest.mark.parametrize(
    ("image", "ours", "theirs"),
    [
        (elf(bits=64, notes=NOTE), PVH, PVH),
        (elf(bits=32, notes=NOTE), PVH, PVH),
        (elf(bits=32, multiboot=HEADER), MULTIBOOT, MULTIBOOT),
        (elf(bits=32, notes=NOTE, multiboot=HEADER), PVH, MULTIBOOT),
    ],
)
def test_the_protocol(image: bytes, ours: BootProtocol, theirs: BootProtocol) -> None:
    assert qemu_protocol(image, ours, "compare it") is theirs


@pytest.mark.parametrize("is_pipe", [False, True], ids=["file", "FIFO"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["", "gzip", "xz"])
@pytest.mark.parametrize("notes", [b"", NOTE], ids=["alone", "with a PVH note"])
def test_an_elf64_with_a_multiboot_header_is_refused_before_anything_runs(
    notes: bytes,
    pack: Callable[[bytes], bytes],
    is_pipe: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "mb64.img"
    image = pack(elf(bits=64, notes=notes, multiboot=HEADER))
    if is_pipe:
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(image,), daemon=True)
        writer.start()
    else:
        path.write_bytes(image)
    # The missing program would be noticed, with another code, before anything ran.
    assert main(["compare", str(path), "--qemu", "/nowhere"]) == 64
    if is_pipe:
        writer.join()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "ELF file for x86-64 with a Multiboot header" in err
    assert "objcopy" in err


def test_raw_code_is_refused() -> None:
    with pytest.raises(UsageError, match="flat image"):
        qemu_protocol(HLT, FLAT, "compare it")


def test_what_qemu_says_where_it_refuses() -> None:
    for said in REFUSALS:
        assert refusal(f"qemu-system-x86_64: {said}, and more") == REFUSALS[said]
    assert refusal("qemu: out of luck") is None


@pytest.mark.qemu
@pytest.mark.slow
def test_a_refusal_while_it_starts_is_one_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """
        if [[ "$*" == *-kernel* ]]; then
            echo "qemu: Some ROM regions are overlapping" >&2; exit 1
        fi
    """
    options = ("-m", "16M", "--host", "model", "--accel", "tcg", "--runs", "0")
    assert main(["compare", "exit", *options, "--qemu", changed(tmp_path, body)]) == 64
    line = capsys.readouterr().err.splitlines()[-1]
    assert "QEMU refuses it" in line
    assert "-kernel" not in line
    assert line.endswith("; change the image, or run it without QEMU (pyvmm run)")
