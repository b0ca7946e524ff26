# SPDX-License-Identifier: MIT
"""The BIOS for images in real mode: what it tells a program that asks for everything."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol, EntryWish
from pyvmm.errors import HostLacksError, ImageError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import BIOS_GPA, COMMAND_LINE, MIB, REAL_MODE_SETUP
from tests.boot.linux_images import bzimage
from tests.boot.soundness import assert_sound

from .building import make

HERE = Path(__file__).parent
MEMORY = 64 * MIB


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    make("--silent")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """``services.S`` as an image."""
    target = tmp_path_factory.mktemp("services") / "services"
    for command in (
        ["gcc", "-c", str(HERE / "services.S"), "-o", f"{target}.o"],
        ["gcc", "-nostdlib", "-static", "-Wl,-Ttext=0", "-Wl,-e,start", "-Wl,--build-id=none",
         f"{target}.o", "-o", f"{target}.elf"],
        ["objcopy", "-O", "binary", "-j", ".text", f"{target}.elf", f"{target}.bin"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return target.with_suffix(".bin").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm), HostChoice.MODEL]
)
def test_a_program_is_told_of_everything(services: bytes, host: HostChoice) -> None:
    config = MachineConfig(services, memory=MEMORY, command_line=b"quiet", timeout=60, host=host)
    completed = run(config, b"kl")
    assert completed.result.ending.exit_code == 7, completed.output
    lines = completed.output.decode("ascii").split("\r\n")
    said = dict(line.split(" ", 1) for line in lines if " " in line and "E820" not in line)
    assert said["IF"].strip() == "00000000"
    assert said["segments"].split() == [
        "00001020", "00001000", "00001000", "0000fff0", "0000fe00"
    ]  # fmt: skip
    assert said["line"] == "quiet"
    in_kib, above, from_1m, blocks, again = (int(word, 16) for word in said["memory"].split())
    assert (in_kib, above) == (639, 63 << 10)
    assert (from_1m, blocks, again) == (15 << 10, (MEMORY - 16 * MIB) >> 16, blocks)
    entries = [
        tuple(int(word, 16) for word in line.split()[1:]) for line in lines if "E820" in line
    ]
    told = [
        (high << 32 | low, size << 32 | rest, kind) for _, high, low, size, rest, kind in entries
    ]
    ranges = AddressMap.of(MEMORY).e820()
    assert told == [(one.range.start, one.range.size, one.type) for one in ranges]
    assert {entry[0] for entry in entries} == {20}
    assert "end" in lines
    assert said["beyond"].split() == [
        "refused", "A20", "done", "00000001", "unknown", "refused", "disk", "refused", "00000001",
        "PCI", "refused",
    ]  # fmt: skip
    assert said["string"] == "abcac", "each second byte is an attribute"
    assert said["ticks"] == "go on"
    assert said["keys"] == "kkl", "looked at, taken, the next one taken"


@pytest.mark.kvm
@pytest.mark.slow
def test_a_program_that_gives_up_resets_the_machine(services: bytes) -> None:
    completed = run(MachineConfig(services, memory=MEMORY, command_line=b"r", timeout=60), b"kl")
    assert completed.result.ending.exit_code == 84
    assert completed.output.endswith(b"\r\nNothing else to boot\r\n")


def test_a_plan_for_real_mode(services: bytes) -> None:
    layout = AddressMap.of(MEMORY)
    plan = plan_boot(services, layout, b"quiet", b"initrd", bios=bundled_guests.bios)
    assert plan.protocol is BootProtocol.LINUX_16
    assert_sound(plan, layout)
    placed = {one.what: one for one in plan.placements}
    assert plan.kernel is not None
    assert (plan.kernel.start, placed["the BIOS"].gpa) == (MIB, BIOS_GPA)
    setup = bytes(placed["its setup code"].data)
    assert placed["its setup code"].gpa == REAL_MODE_SETUP
    assert int.from_bytes(setup[0x228:0x22C], "little") == COMMAND_LINE
    assert plan.initrd is not None
    assert int.from_bytes(setup[0x218:0x21C], "little") == plan.initrd.start
    assert int.from_bytes(setup[0x21C:0x220], "little") == 6
    assert (setup[0x210], setup[0x211]) == (0xFF, 0x81)
    assert setup[0x214:0x218] == bytes(4), "it stays without a 32-bit entry"
    assert setup[0x248:] == services[0x248 : len(setup)]


def test_setup_code_is_told_where_the_rest_of_its_kernel_is() -> None:
    layout = AddressMap.of(MEMORY)
    plan = plan_boot(bzimage(), layout, wish=EntryWish.REAL, bios=bundled_guests.bios)
    setup = next(one for one in plan.placements if one.what == "its setup code")
    assert plan.protocol is BootProtocol.LINUX_16
    assert int.from_bytes(setup.data[0x214:0x218], "little") == 16 * MIB


def test_setup_code_that_leaves_no_room_for_its_stack_is_refused() -> None:
    image = bzimage(bytes(70_000), setup_sects=127, syssize=0)
    with pytest.raises(ImageError, match="of 65536 bytes leaves no room for heap and stack"):
        plan_boot(image, AddressMap.of(MEMORY), wish=EntryWish.REAL, bios=bundled_guests.bios)


def test_without_a_bios_there_is_no_such_entry(services: bytes) -> None:
    with pytest.raises(ImageError, match="in real mode, and here is no BIOS"):
        plan_boot(services, AddressMap.of(MEMORY))


def test_a_bios_that_was_not_built_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_guests, "_FIRMWARE_PLACES", (tmp_path,))
    with pytest.raises(HostLacksError, match="it has not been built; run make guests"):
        bundled_guests.bios()
    (tmp_path / "bios.bin").write_bytes(b"half")
    with pytest.raises(HostLacksError, match="it has 4 bytes, not 4096"):
        bundled_guests.bios()


def test_the_page_ends_as_a_pc_does() -> None:
    bios = bundled_guests.bios()
    assert re.match(rb"\xe9..", bios), "a jump over the memory map"
    assert (bios[0xFF0], bios[0xFFE]) == (0xEA, 0xFC)
