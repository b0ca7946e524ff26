# SPDX-License-Identifier: MIT
"""Tables as a guest finds them: by the RSDP, with right checksums, and with what they tell."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyvmm.acpi.aml import buffer, device, eisa, integer, name, package, scope, string
from pyvmm.acpi.resources import BusWindow, FixedMemory, Interrupt, IoPorts, resources
from pyvmm.acpi.tables import acpi_tables
from pyvmm.errors import InternalError, UsageError
from pyvmm.memory.layout import ECAM_GPA, GIB, IOAPIC_GPA, LOCAL_APIC_GPA, GpaRange

from .machines import FIXED, GAPS, LARGE, MACHINES, PLACE, SMALL
from .parsing import HEADER, entries, read_aml, tables


def test_every_table_is_found_from_the_rsdp_and_its_checksum_is_right() -> None:
    for one in MACHINES.values():
        found = tables(acpi_tables(one, PLACE), PLACE.start)
        wanted = {b"XSDT", b"FACP", b"APIC", b"FACS", b"DSDT"}
        if one.pci:
            wanted.add(b"MCFG")
        assert found.keys() == wanted | ({b"SRAT", b"SLIT"} if one.nodes else set())


@pytest.mark.parametrize("name_", MACHINES)
def test_the_madt_names_every_vcpu_once_by_the_entry_that_its_id_fits(name_: str) -> None:
    one = MACHINES[name_]
    madt = tables(acpi_tables(one, PLACE), PLACE.start)[b"APIC"]
    assert struct.unpack_from("<II", madt, HEADER) == (LOCAL_APIC_GPA, 1)
    found: list[tuple[int, int]] = []
    for kind, content in entries(madt):
        if kind == 0:
            uid, apic_id, flags = struct.unpack_from("<BBI", content, 2)
            assert apic_id < 255
        elif kind == 9:
            apic_id, flags, uid = struct.unpack_from("<III", content, 4)
            assert apic_id >= 255
        else:
            continue
        assert flags == 1
        found.append((uid, apic_id))
    assert found == list(enumerate(one.apic_ids))


def test_the_madt_says_where_the_io_apic_is_and_which_isa_lines_are_not_as_on_isa() -> None:
    found = list(entries(tables(acpi_tables(SMALL, PLACE), PLACE.start)[b"APIC"]))
    assert [content for kind, content in found if kind == 1] == [
        struct.pack("<BBBBII", 1, 12, 0, 0, IOAPIC_GPA, 0)
    ]
    overrides = [struct.unpack("<BBIH", content[2:]) for kind, content in found if kind == 2]
    # Bus, source, GSI, flags: the timer, and the SCI by level, active high.
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0xD)]
    assert [content[2:] for kind, content in found if kind == 4] == [b"\xff\0\0\x01"]


def test_x2apic_processors_have_an_nmi_entry_of_their_own() -> None:
    kinds = [kind for kind, _ in entries(tables(acpi_tables(GAPS, PLACE), PLACE.start)[b"APIC"])]
    assert kinds.count(10) == 1
    kinds = [kind for kind, _ in entries(tables(acpi_tables(SMALL, PLACE), PLACE.start)[b"APIC"])]
    assert 10 not in kinds


def test_the_fadt_tells_of_the_fixed_hardware_and_is_not_hardware_reduced() -> None:
    fadt = tables(acpi_tables(SMALL, PLACE), PLACE.start)[b"FACP"]
    assert (fadt[8], len(fadt)) == (6, 276)
    sci, smi_command = struct.unpack_from("<HI", fadt, 46)
    assert (sci, smi_command) == (9, 0)
    assert struct.unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608, 0, 0)
    assert tuple(fadt[88:92]) == (4, 2, 0, 4)
    boot, flags = struct.unpack_from("<H", fadt, 109)[0], struct.unpack_from("<I", fadt, 112)[0]
    assert boot & 0b111 == 0b101, "legacy devices, no 8042, no VGA"
    assert not flags & 1 << 20, "hardware-reduced"
    assert not flags & 1 << 4, "the power button is fixed hardware"
    assert flags & 1 << 10, "the reset register counts"
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
    for at, bits, port in ((148, 32, 0x600), (172, 16, 0x604), (208, 32, 0x608)):
        space, width, offset, _, address = struct.unpack_from("<BBBBQ", fadt, at)
        assert (space, width, offset, address) == (1, bits, 0, port)


def test_mcfg_tells_of_as_many_buses_as_there_is_ecam() -> None:
    mcfg = tables(acpi_tables(LARGE, PLACE), PLACE.start)[b"MCFG"]
    assert struct.unpack("<QHBB4x", mcfg[44:]) == (ECAM_GPA, 0, 0, 0)


def test_the_dsdt_has_every_device_and_the_way_off() -> None:
    dsdt = tables(acpi_tables(LARGE, PLACE), PLACE.start)[b"DSDT"]
    found = read_aml(dsdt[HEADER:])
    assert found["_S5_"] == [5, 5, 0, 0]
    board = found["_SB_"]
    assert isinstance(board, dict)
    assert board.keys() == {"D000", "D001", "D002", "D003", "PCI0", "MBRD"}
    serial, virtio, pci = board["D000"], board["D003"], board["PCI0"]
    assert isinstance(serial, dict)
    # COM1 with IRQ 4 by an ISA descriptor, without flags.
    assert serial["_HID"] == 0x0105D041
    assert serial["_CRS"] == bytes.fromhex("4701f803f8030108 221000 7900")
    assert isinstance(virtio, dict)
    assert (virtio["_HID"], virtio["_UID"]) == ("LNRO0005", 2)
    # Memory; GSI 18, consumed, by level, active high, its own.
    assert virtio["_CRS"] == bytes.fromhex("860900010004f0fe00020000 8906000101120000 007900")
    assert isinstance(pci, dict)
    routes = pci["_PRT"]
    assert isinstance(routes, list)
    assert routes[3] == [3 << 16 | 0xFFFF, 0, 0, 11]
    assert len(routes) == 32


def test_tables_that_have_no_room_are_refused() -> None:
    whole = len(acpi_tables(LARGE, PLACE))
    acpi_tables(LARGE, GpaRange(PLACE.start, PLACE.start + whole))
    with pytest.raises(UsageError, match="there is room for"):
        acpi_tables(LARGE, GpaRange(PLACE.start, PLACE.start + whole - 1))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0x10000, "0c00000100"),
     (1 << 32, "0e0000000001000000"), ((1 << 64) - 1, "0e" + "ff" * 8)],
)  # fmt: skip
def test_integers_are_as_short_as_they_can_be(value: int, encoded: str) -> None:
    assert integer(value).hex() == encoded


@pytest.mark.parametrize("size", [0, 1, 59, 60, 61, 62, 63, 64, 4090, 4094, 70_000])
def test_lengths_of_every_width_are_read_back(size: int) -> None:
    content = bytes(size)
    block = scope("_SB", device("A", name("B", buffer(content)), name("C", string("x"))))
    assert read_aml(block) == {"_SB_": {"A___": {"B___": content, "C___": "x"}}}


def test_names_have_a_root_and_several_segments() -> None:
    block = name("\\_SB.A.B", package(integer(7), string("q"))) + name("\\_SB.A", eisa("PNP0A03"))
    assert read_aml(block) == {"\\_SB_.A___.B___": [7, "q"], "\\_SB_.A___": 0x030AD041}


def test_what_has_no_encoding_is_an_error_of_the_caller() -> None:
    wrongs: tuple[Callable[[], object], ...] = (
        lambda: integer(-1),
        lambda: integer(1 << 64),
        lambda: string("é"),
        lambda: name("lower", integer(1)),
        lambda: name("TOOLONG", integer(1)),
        lambda: eisa("PNP05"),
        lambda: package(*[integer(0)] * 256),
        lambda: resources(IoPorts(0, 256)),
        lambda: resources(BusWindow(1, 0)),
    )
    for wrong in wrongs:
        with pytest.raises(InternalError):
            wrong()


def test_memory_and_lines_get_the_descriptor_that_they_need() -> None:
    high = resources(FixedMemory(64 * GIB, 4096))
    assert read_aml(name("X", high))["X___"] == struct.pack(
        "<BHBBB5Q", 0x8A, 0x2B, 0, 0x0D, 1, 0, 64 * GIB, 64 * GIB + 4095, 0, 4096
    ) + b"\x79\0"  # fmt: skip
    shared = resources(Interrupt(9, True, True, True))
    assert read_aml(name("X", shared))["X___"] == b"\x89\x06\0\x0d\x01\x09\0\0\0\x79\0"


def test_fixed_hardware_is_what_the_board_reserves() -> None:
    board = read_aml(tables(acpi_tables(SMALL, PLACE), PLACE.start)[b"DSDT"][HEADER:])["_SB_"]
    assert isinstance(board, dict)
    motherboard = board["MBRD"]
    assert isinstance(motherboard, dict)
    crs = motherboard["_CRS"]
    assert isinstance(crs, bytes)
    ports = {(int.from_bytes(crs[at + 2 : at + 4], "little"), crs[at + 7]) for at in (0, 8, 16)}
    assert ports == {(FIXED.event, 4), (FIXED.control, 2), (FIXED.timer, 4)}
