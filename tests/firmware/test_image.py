# SPDX-License-Identifier: MIT
"""The firmware as a file: what lies where, and which instructions it uses."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.errors import HostLacksError
from pyvmm.memory.layout import FIRMWARE_GPA, FIRMWARE_SIZE
from tests.guest.test_images import forbidden_instructions

from .building import FIRMWARE, elf, make, symbols


def test_the_slot_with_the_report_first_and_the_reset_vector_last(firmware: bytes) -> None:
    assert len(firmware) == FIRMWARE_SIZE
    names = symbols()
    assert names["launch_report"] == FIRMWARE_GPA
    assert firmware[:4096] == bytes(4096)
    assert names["reset_vector"] == 0xFFFFFFF0
    # A jump back, within the last 64 KiB, to the only 16-bit code.
    opcode, distance = struct.unpack("<Bh", firmware[-16:-13])
    assert (opcode, names["real_mode"]) == (0xE9, 0xFFFFFFF3 + distance)
    assert names["real_mode"] >= 0xFFFF0000


def test_all_that_it_writes_to_is_in_the_image(firmware: bytes) -> None:
    names = symbols()
    for name in ("stack_top", "processors_here", "launch_ready", "page_map_level4"):
        assert FIRMWARE_GPA <= names[name] < FIRMWARE_GPA + FIRMWARE_SIZE - 256


@pytest.mark.usefixtures("firmware")
def test_only_instructions_that_an_emulator_knows() -> None:
    assert forbidden_instructions(elf()) == []


@pytest.mark.usefixtures("firmware")
def test_code_that_runs_from_private_memory_needs_no_decoding() -> None:
    """Of trampoline and parking loop: OUT by register is all that may leave the guest."""
    names = symbols()
    listing = subprocess.run(
        [
            *("objdump", "-D", "--no-show-raw-insn", "-j", ".rodata", str(elf())),
            f"--start-address={names['trampoline']}",
            f"--stop-address={names['launch_code_end']}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mnemonics = set(re.findall(r"^\s*[0-9a-f]+:\t(?:lock )?([a-z]+)", listing, re.MULTILINE))
    assert mnemonics == {
        "mov", "xor", "out", "jmp", "incl", "shl", "add", "pause", "test", "je"
    }  # fmt: skip
    assert "%al,(%dx)" in listing
    assert "rip" not in listing


@pytest.mark.usefixtures("firmware")
def test_nothing_is_built_twice() -> None:
    assert "Nothing to be done" in make()


@pytest.mark.slow
def test_out_gets_both_images_and_nothing_else(tmp_path: Path, firmware: bytes) -> None:
    out = tmp_path / "out"
    make("--silent", f"OUT={out}", f"OBJECTS={tmp_path / 'objects'}", "-j2")
    assert {path.name for path in out.iterdir()} == {"bios.bin", "firmware.bin"}
    assert (out / "firmware.bin").read_bytes() == firmware


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "it has not been built; run make guests"),
        (b"half of it", "it has 10 bytes, not 131072; run make guests"),
    ],
)
def test_where_it_was_not_built(
    content: bytes | None, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "firmware.bin").write_bytes(content)
    monkeypatch.setattr(bundled_guests, "_FIRMWARE_PLACES", (tmp_path / "nowhere", tmp_path))
    with pytest.raises(HostLacksError, match=cause):
        bundled_guests.firmware()


def test_an_installed_package_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, firmware: bytes
) -> None:
    made = FIRMWARE / "build" / "firmware.bin"
    shutil.copy(made, tmp_path)
    monkeypatch.setattr(bundled_guests, "_FIRMWARE_PLACES", (tmp_path, made.parent / "gone"))
    assert bundled_guests.firmware() == firmware
