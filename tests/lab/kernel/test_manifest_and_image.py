# SPDX-License-Identifier: MIT
"""A kernel's description, and what a kernel's file says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.errors import ImageError, NoInputError
from pyvmm.lab.kernel.image import ImageKind, recognise
from pyvmm.lab.kernel.manifest import Manifest, series, version_order
from tests.lab.kernel.conftest import NOTE, fake_bzimage, fake_vmlinux

MANIFEST = Manifest(
    "7.3", "7.3.4", "linux-source-7.3 7.3.4-1", "c" * 64, "gcc 12", "vmlinux", "a" * 64, 12,
    "2026-11-22T18:00:00+00:00", 1.5, 900, {"VM_TYPES": 3},
)  # fmt: skip


def test_a_manifest_survives_its_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(replace(MANIFEST, offers=None, build_seconds=1).to_json()) is not None


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"size": "12"}, {"image": "../../etc/passwd"}, {"image": ".x"}, {"extra": 1},
     {"offers": 3}, {"sha256": None}],
)  # fmt: skip
def test_a_manifest_that_we_did_not_write_is_none(change: dict[str, object]) -> None:
    assert Manifest.from_json(json.dumps({**json.loads(MANIFEST.to_json()), **change})) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "3"])
def test_text_that_is_no_manifest_is_none(text: str) -> None:
    assert Manifest.from_json(text) is None


def test_versions_are_ordered_as_numbers() -> None:
    texts = ["6.12.107", "7.3", "6.9", "6.12", "odd"]
    assert sorted(texts, key=version_order) == ["odd", "6.9", "6.12", "6.12.107", "7.3"]
    assert [series(text) for text in ("7.3.4", "6.12", "7.4-rc1", "odd")] == [
        "7.3", "6.12", "7.4", "odd",
    ]  # fmt: skip


def test_a_vmlinux_and_a_bzimage_say_their_release(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(fake_vmlinux())
    assert (recognise(path).kind, recognise(path).release) == (ImageKind.VMLINUX, "7.3.4")
    path.write_bytes(fake_bzimage())
    assert (recognise(path).kind, recognise(path).release) == (ImageKind.BZIMAGE, "6.18.2-mine")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\n", "neither"),
        (b"\x7fELF", "not for x86-64"),
        (fake_vmlinux()[:18] + b"\xb7\0" + fake_vmlinux()[20:], "not for x86-64"),
        (fake_vmlinux(banner=b""), "no Linux kernel"),
        (fake_vmlinux(note=b""), "PVH"),
        (fake_bzimage(b"\0"), "version"),
        (fake_bzimage()[:0x210], "version"),
    ],
)
def test_what_is_no_kernel_for_qemu_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=says):
        recognise(path)


def test_a_kernel_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NoInputError):
            recognise(path)
    assert NOTE in fake_vmlinux()
