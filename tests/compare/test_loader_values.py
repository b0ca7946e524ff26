# SPDX-License-Identifier: MIT
"""What a boot protocol leaves to the loader is explained where a guest prints it, and no more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.cli.main import main
from pyvmm.compare.loader_values import LoaderValues, loader_values
from pyvmm.compare.reasons import GuestKnown
from pyvmm.compare.verdict import judge
from pyvmm.memory.address_map import AddressMap
from tests.boot.images import Segment, elf, multiboot_header
from tests.compare.samples import MODEL, OURS, inspection, qemu

# mov esi, [ebx + 16] (the command line), and each byte to the debug console, a line feed; then the
# first module's string and its start; status 0.
SAY_IT = bytes.fromhex("ac 84c0 7404 e6e9 ebf7 b00a e6e9")
# mov edx, [esi], and its eight digits
SAY_NUMBER = bytes.fromhex("8b16 b908000000 c1c204 88d0 240f 3c0a 1c69 2f e6e9 e2f0 b00a e6e9")
SAY_LINE_AND_MODULE = (
    bytes.fromhex("8b7310") + SAY_IT + bytes.fromhex("8b4318 8b7008") + SAY_IT
    + bytes.fromhex("8b7318") + SAY_NUMBER + bytes.fromhex("31c0 e6f4 f4")
)  # fmt: skip
IMAGE = elf((Segment(0x10_0000, SAY_LINE_AND_MODULE),), bits=32, multiboot=multiboot_header())


@pytest.fixture(scope="module")
def values() -> LoaderValues:
    layout = AddressMap.of(16 << 20)
    plan = plan_boot(IMAGE, layout, b"a=1", b"module")
    assert plan.initrd is not None
    return loader_values(plan, layout)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # The module is right behind the kernel, the information at 0x9000 or so.
        ("module at 0x101000-0x101006: a", "module at 0x103000-0x103006: a"),
        ("booted by pyvmm", "booted by qemu"),
        ("upper memory 15360 KiB", "upper memory 15231 KiB"),
        ("0-9fc00 type 1\n9fc00-100000 type 2\nend",
         "0-9fc00 type 1\nf0000-100000 type 2\nfffc0000-100000000 type 2\nend"),
    ],
)  # fmt: skip
def test_what_loaders_choose(values: LoaderValues, ours: str, theirs: str) -> None:
    assert values.explain(ours.split("\n"), theirs.split("\n"))
    assert not LoaderValues().explain(ours.split("\n"), theirs.split("\n")) or "pyvmm" in ours


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("0 errors", "5 errors"),
        ("result 1234", "result 1235"),
        ("module at 0x101000: sum 77aa", "module at 0x103000: sum 77ab"),
        ("command line 'a=1'", "command line 'a=2'"),
        ("command line '/proc/self/fd/8 a=1'", "command line '/proc/self/fd/7 a=1'"),
        ("command line 'a=1'", "command line '/proc/self/fd/8 a=1'"),
        ("upper memory 15360 KiB", ""),
        ("upper memory 15360 KiB", "upper memory 15231 KiB\nupper memory 15231 KiB"),
        ("0-9fc00 type 1\n100000-1000000 type 1", "0-9fc00 type 1\noops"),
        ("0-9fc00 type 1\n100000-1000000 type 1\nend", "0-9fc00 type 1\n100000-1000000 type 1"),
        ("x", "y"),
    ],
)
def test_what_they_do_not(values: LoaderValues, ours: str, theirs: str) -> None:
    assert not values.explain(ours.split("\n"), theirs.split("\n"))


def test_it_counts_between_pyvmm_and_qemu_only(values: LoaderValues) -> None:
    guest = replace(GuestKnown(None), loader=values)
    ours = inspection(OURS, b"module at 0x101000\n")
    theirs = inspection(qemu(), b"module at 0x103000\n")
    for verdict in (judge(ours, theirs, guest, None), judge(theirs, ours, guest, None)):
        assert verdict.agrees
        assert [key for key, _ in verdict.findings[0].reasons] == ["loader"]
    assert not judge(ours, replace(theirs, subject=MODEL), guest, None).agrees
    assert not judge(ours, theirs, GuestKnown(None), None).agrees


@pytest.mark.qemu
@pytest.mark.slow
def test_a_guest_that_prints_its_command_line_and_module(tmp_path: Path) -> None:
    image, initrd, told = (tmp_path / name for name in ("image", "initrd", "told"))
    image.write_bytes(IMAGE)
    initrd.write_bytes(b"module")
    options = ("-m", "16M", "--host", "model", "--accel", "tcg", "--runs", "0", "--append", "a=1")
    files = ("--initrd", str(initrd), "--json", str(told))
    assert main(["compare", str(image), *options, *files]) == 0
    plain = json.loads(told.read_text())
    consoles = [one["console"] for one in plain["subjects"]]
    ours, theirs = (console.splitlines() for console in consoles)
    assert ours[:2] == theirs[:2], "the names that QEMU tells"
    assert re.fullmatch("/proc/self/fd/[0-9]+ a=1", ours[0])
    assert re.fullmatch("/proc/self/fd/[0-9]+", ours[1])
    assert ours[2:] == ["00101000"], "right behind the kernel"
    assert theirs[2:] != ours[2:]
    assert plain["verdicts"][0]["findings"][0]["reasons"][0]["key"] == "loader"
