# SPDX-License-Identifier: MIT
"""Modules with what they need, and modprobe's tables, from the modules themselves."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.linux.modules import FOR_GUESTS, Module, closure, tables


def module_file(*facts: str) -> bytes:
    """A relocatable ELF whose one section of content is .modinfo."""
    info = b"".join(fact.encode() + b"\0" for fact in facts)
    names = b"\0.modinfo\0.shstrtab\0"
    sections = [(0, 0, b""), (1, 1, info), (10, 3, names)]
    body, headers = b"", b""
    for name, kind, data in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ", name, kind, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0
        )
        body += data
    head = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 1, 62, 1, 0, 0, 64 + len(body), 0, 64,
        0, 0, 64, len(sections), 2,
    )  # fmt: skip
    return head + body + headers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules as Debian has them: in folders, some with a hyphen, one compressed."""
    files = {
        "kernel/drivers/virtio/virtio.ko": module_file("depends=", "name=virtio"),
        "kernel/drivers/virtio/virtio_ring.ko": module_file("depends=virtio"),
        "kernel/drivers/block/virtio_blk.ko": module_file(
            "depends=virtio_ring,virtio", "alias=virtio:d00000002v*", "alias=virtio:d9v*"
        ),
        "kernel/drivers/char/hw_random/virtio-rng.ko": module_file("depends=virtio", "license=GPL"),
        "kernel/fs/packed.ko.xz": lzma.compress(module_file("depends=virtio-rng")),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return tmp_path


def names(found: list[Module]) -> list[str]:
    return [module.name for module in found]


def test_what_is_needed_comes_first_and_once(folder: Path) -> None:
    found = closure(folder, ["virtio_blk", "virtio-rng", "virtio_blk"])
    assert names(found) == ["virtio", "virtio_ring", "virtio_blk", "virtio_rng"]
    assert found[2].aliases == ("virtio:d00000002v*", "virtio:d9v*")


def test_a_compressed_module_is_unpacked(folder: Path) -> None:
    found = closure(folder, ["packed"])
    assert names(found) == ["virtio", "virtio_rng", "packed"]
    assert found[-1].data.startswith(b"\x7fELF")


def test_what_a_kernel_has_not_is_left_out_or_refused(folder: Path) -> None:
    assert names(closure(folder, FOR_GUESTS)) == [
        "virtio",
        "virtio_ring",
        "virtio_blk",
        "virtio_rng",
    ]
    assert names(closure(folder, ["ext4"], exactly=True)) == []  # Built in.
    with pytest.raises(UsageError, match="take the module nosuch: the kernel"):
        closure(folder, ["nosuch"], exactly=True)


def test_modprobes_tables(folder: Path) -> None:
    files = tables(closure(folder, ["virtio_blk", "virtio_rng"]))
    assert sorted(files) == [
        "modules.alias", "modules.dep",
        "virtio.ko", "virtio_blk.ko", "virtio_ring.ko", "virtio_rng.ko",
    ]  # fmt: skip
    assert files["modules.dep"].decode().splitlines() == [
        "virtio.ko:",
        "virtio_ring.ko: virtio.ko",
        "virtio_blk.ko: virtio_ring.ko virtio.ko",
        "virtio_rng.ko: virtio.ko",
    ]
    assert files["modules.alias"].decode().splitlines() == [
        "alias virtio:d00000002v* virtio_blk", "alias virtio:d9v* virtio_blk",
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"text", module_file()[:100]])
def test_a_broken_module(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.ko").write_bytes(data)
    with pytest.raises(HostLacksError, match=r"read the module .*bad\.ko"):
        closure(tmp_path, ["bad"])


def test_a_folder_without_modules(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are none in it"):
        closure(tmp_path, ["virtio"])
