# SPDX-License-Identifier: MIT
"""Guests that differ under QEMU for a reason that lies in the machines, and one that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from tests.boot.images import ENTRY, Segment, elf, multiboot_header, pvh_note
from tests.compare.fake_qemu import changed

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

SAY_A = "b041 e6e9 b00a e6e9"
SAY_BIT_0 = "2401 0430 e6e9 b00a e6e9"
END = "31c0 e6f4 f4"
# 'M' if EAX says that a Multiboot loader was here, 'P' if not.
HOW_ENTERED = f"b34d 3d02b0ad2b 7402 b350 88d8 e6e9 b00a e6e9 {END}"
# The lowest bit of what is at 3.25 GiB, where there is nothing.
READ_NOTHING = f"{SAY_A} a0000000d0 {SAY_BIT_0} {END}"
# The lowest bit of PCI configuration word 0, after writing 0x80000000 to 0xcf8.
READ_PCI = f"{SAY_A} b800000080 66baf80c ef 66bafc0c ed {SAY_BIT_0} {END}"


def image(code: str, notes: bytes = b"") -> bytes:
    segment = Segment(ENTRY, bytes.fromhex(code))
    return elf((segment,), bits=32, notes=notes, multiboot=multiboot_header())


@pytest.mark.parametrize(
    ("guest", "machine", "consoles", "key"),
    [
        (image(HOW_ENTERED, pvh_note()), "microvm", ("P\n", "M\n"), "boot-protocol"),
        (image(READ_NOTHING), "microvm", ("A\n1\n", "A\n0\n"), "open-read"),
        (image(READ_PCI), "pc", ("A\n1\n", "A\n0\n"), "device"),
    ],
    ids=["boot-protocol", "open-read", "device"],
)
def test_why(
    guest: bytes, machine: str, consoles: tuple[str, str], key: str, tmp_path: Path
) -> None:
    path, told = tmp_path / "guest", tmp_path / "told"
    path.write_bytes(guest)
    options = ("-m", "16M", "--host", "model", "--accel", "tcg", "--machine", machine)
    line = ["compare", str(path), *options, "--runs", "0", "--json", str(told)]
    assert main(line) == 0
    plain = json.loads(told.read_text())
    assert tuple(one["console"] for one in plain["subjects"]) == consoles
    found = plain["verdicts"][0]["findings"][0]
    assert found["agreement"] == "explained"
    assert [one["key"] for one in found["reasons"]] == [key]


def test_another_command_line_is_no_reason(tmp_path: Path) -> None:
    # It reads PCI's ports only after it has said something else than under pyvmm.
    say_it = "ac 84c0 7404 e6e9 ebf7 b00a e6e9"
    guest = tmp_path / "guest"
    guest.write_bytes(image(f"8b7310 {say_it} {READ_PCI}"))
    program = changed(tmp_path, 'set -- "${@/#mine/theirs}"')
    options = ("-m", "16M", "--host", "model", "--accel", "tcg", "--machine", "pc", "--runs", "0")
    line = ["compare", str(guest), *options, "--append", "mine", "--qemu", program]
    assert main(line) == 1
