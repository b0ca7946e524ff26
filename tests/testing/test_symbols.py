# SPDX-License-Identifier: MIT
"""Symbols of images: names, addresses, lines; where they are found; files that make no sense."""

from __future__ import annotations

import shutil
import struct
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import example, given
from hypothesis import strategies as st

from pyvmm import bundled_guests
from pyvmm.errors import ImageError, NoInputError, UsageError
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import EventName, Outcome, OutcomeKind
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.images import source_lines
from pyvmm.testing.images.source_lines import line_finder
from pyvmm.testing.images.symbol_files import find_symbols
from pyvmm.testing.images.symbols import MOST_LETTERS, CodePlace, Symbol, Symbols, read_symbols
from tests.machine.guests import EXIT_42, bundled
from tests.testing.test_boot import HOSTS


def image_path(name: str) -> Path:
    guest = bundled_guests.find(name)
    assert guest is not None
    return guest.path


@cache
def unstripped(name: str) -> Path:
    image = image_path(name)
    return image.parent / "objects" / image.parent.name / f"{name}.elf"


def symbol(name: str, address: int, size: int = 0, *, is_global: bool = True) -> Symbol:
    return Symbol(name, address, size, is_code=True, is_global=is_global)


def test_a_place_is_in_the_function_around_it() -> None:
    symbols = Symbols(
        [
            symbol("main", 0x100, 0x10),
            symbol("also_main", 0x100, is_global=False),
            symbol("label", 0x120),
        ],
        "x",
        lambda address: "a.c:1" if address == 0x104 else "",
    )
    assert str(symbols.place(0x100)) == "main"
    assert str(symbols.place(0x104)) == "main+0x4 (a.c:1)"
    assert symbols.place(0x10F) == CodePlace("main", 0xF)
    assert symbols.place(0x110) is None
    assert symbols.place(0xFF) is None
    assert symbols.place(0x12345) == CodePlace("label", 0x12345 - 0x120)


def test_a_name_has_one_address() -> None:
    symbols = Symbols(
        [
            symbol("main", 0x100),
            symbol("main", 0x200, is_global=False),
            symbol("twice", 1, is_global=False),
            symbol("twice", 2, is_global=False),
        ],
        "x.elf",
    )
    assert symbols.address("main") == 0x100
    with pytest.raises(UsageError, match=r"twice in x\.elf: there are several: 0x1, 0x2"):
        symbols.address("twice")
    with pytest.raises(UsageError, match="there is none; did you mean main"):
        symbols.address("mian")
    with pytest.raises(UsageError, match=r"no symbols; name its unstripped ELF file \(symbols=\)"):
        Symbols((), "x").address("main")


def test_bundled_images_have_symbols_and_their_files_have_lines() -> None:
    image = bundled("hello")
    in_image = find_symbols(image, "hello")
    beside = find_symbols(image, "hello", image_path("hello"))
    assert beside.name == str(unstripped("hello"))
    main = beside.address("guest_main")
    assert main == in_image.address("guest_main")
    assert in_image.place(main) == CodePlace("guest_main", 0)
    place = beside.place(main)
    assert place is not None
    source, number = place.line.split(":")
    lines = Path("guest", source).read_text(encoding="utf-8").splitlines()
    assert source == "programs/hello.c"
    assert "int guest_main(void)" in lines[int(number) - 2 : int(number)]


def test_files_of_other_code_beside_an_image_are_left_alone(tmp_path: Path) -> None:
    image = tmp_path / "guest.img"
    shutil.copy(image_path("hello"), image)
    other = tmp_path / "guest.elf"
    shutil.copy(unstripped("echo"), other)
    assert find_symbols(image.read_bytes(), "guest.img", image).name == "guest.img"
    assert find_symbols(image.read_bytes(), "guest.img", image, other).name == str(other)
    other.write_bytes(b"\x7fELF")
    assert find_symbols(image.read_bytes(), "guest.img", image).name == "guest.img"
    shutil.copy(unstripped("hello"), other)
    assert find_symbols(image.read_bytes(), "guest.img", image).name == str(other)


def test_a_file_that_was_asked_for_is_there_and_an_elf_file(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"read the symbols of .*none: No such file"):
        find_symbols(EXIT_42, "x", None, tmp_path / "none")
    wrong = tmp_path / "wrong"
    wrong.write_text("text")
    with pytest.raises(ImageError, match="no little-endian ELF file"):
        find_symbols(EXIT_42, "x", None, wrong)
    assert len(find_symbols(EXIT_42, "x")) == 0


def elf64(names: bytes, symbols: bytes, tables: int) -> bytes:
    """An ELF64 file with symbols, the same in each of so many section headers."""
    count = tables + 2
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, count, 0
    )
    at = 64 + 64 * count
    text = struct.pack("<IIQQQQIIQQ", 0, 3, 4, 0, at, len(names), 0, 0, 1, 0)
    table = struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at + len(names), len(symbols), 1, 0, 8, 24)
    return header + bytes(64) + text + table * tables + names + symbols


def test_one_table_of_symbols_counts_and_names_are_cut() -> None:
    symbols = b"".join(struct.pack("<IBBHQQ", at, 2, 0, 1, 0x1000 + at, 1) for at in (1, 2, 3))
    found = read_symbols(elf64(b"\0" + b"x" * 5000, symbols, 1000), "it")
    assert len(found) == 3
    place = found.place(0x1002)
    assert place is not None
    assert place.name == "x" * MOST_LETTERS


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_LINE_BYTES", "MOST_ROWS", "MOST_SECTIONS"])
def test_lines_are_bounded_by_all_that_is_read_for_them(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = unstripped("exit").read_bytes()
    address = read_symbols(data, "it").address("guest_main")
    assert line_finder(data)(address)
    file = ELFFile(BytesIO(data))
    sizes = {section.name: section.data_size for section in file.iter_sections()}
    low = {
        # More than those of .debug_info and .debug_line.
        "MOST_BYTES": sum(size for name, size in sizes.items() if name.startswith(".debug_")) - 1,
        "MOST_LINE_BYTES": sizes[".debug_line"] - 1,
        "MOST_ROWS": 0,
        "MOST_SECTIONS": 2,
    }[limit]
    monkeypatch.setattr(source_lines, limit, low)
    assert not line_finder(data)(address)


def test_an_elf_file_of_32_bits() -> None:
    names = b"\0main\0"
    symbols = bytes(16) + struct.pack("<IIIBBH", 1, 0x1234, 4, 0x12, 0, 1)
    at = 52
    sections = bytes(40)
    sections += struct.pack("<10I", 0, 1, 4, 0, 0, 0, 0, 0, 0, 0)
    sections += struct.pack("<10I", 0, 2, 0, 0, at, len(symbols), 3, 0, 0, 16)
    sections += struct.pack("<10I", 0, 3, 0, 0, at + len(symbols), len(names), 0, 0, 0, 0)
    head = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, 0, 0,
        at + len(symbols) + len(names), 0, 52, 32, 0, 40, 4, 0,
    )  # fmt: skip
    found = read_symbols(head + symbols + names + sections + bytes(64), "small")
    assert found.address("main") == 0x1234
    assert str(found.place(0x1236)) == "main+0x2"


@given(st.data())
@example(None)
def test_damaged_files_are_refused_in_a_line(data: st.DataObject | None) -> None:
    """Wherever the headers lie: names and places of what is left, or one error."""
    whole = bytearray(unstripped("exit").read_bytes())
    if data is not None:
        sections_at = int.from_bytes(whole[40:48], "little")
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(16, 63) | st.integers(sections_at, len(whole) - 8))
            value = data.draw(st.sampled_from([0, 1, 0xFF, 0x7FFF_FFFF, (1 << 64) - 1]))
            whole[at : at + 8] = value.to_bytes(8, "little")
        del whole[data.draw(st.integers(0, len(whole))) :]
    try:
        symbols = read_symbols(bytes(whole), "damaged", line_finder(bytes(whole[:4096])))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        symbols.place(0x100420)


@HOSTS
def test_a_guest_is_stopped_at_a_symbol(boot: Boots, host: str) -> None:
    with boot("echo", host=host, paused=True) as vm:
        assert vm.breakpoint("guest_main") == vm.symbols.address("guest_main")
        vm.resume()
        event = vm.events.wait_for("breakpoint")
        rip = vm.registers().values["rip"]
        assert (event.vcpu, event.detail) == (0, f"{rip:#x}")
        place = vm.symbols.place(rip)
        assert place is not None
        assert (place.name, place.offset) == ("guest_main", 0)
        vm.clear_breakpoint("guest_main")
        vm.resume()
        vm.console.send_line("on")
        vm.console.expect("on")
        assert [one.name for one in vm.events.all][:3] == [
            EventName.PAUSED,
            EventName.BREAKPOINT,
            EventName.RESUMED,
        ]
        with pytest.raises(UsageError, match="find the symbol guest_mein"):
            vm.breakpoint("guest_mein")


def _end_of(vm: Vm) -> Outcome:
    """The outcome of a guest whose vCPUs have all come to a breakpoint, for the last time.

    Where they came to it at once the machine stood still once: it runs then, or has ended.
    """
    with suppress(ExpectError):
        vm.resume()
    return vm.wait()


@pytest.mark.slow
def test_each_vcpu_is_stopped_at_a_symbol_in_private_memory(boot: Boots) -> None:
    with boot(
        "smp", append="rounds=2", host="model", private=True, cpus=2, paused=True, memory="16M"
    ) as vm:
        vm.breakpoint("work")
        stopped = []
        for _ in range(2):
            vm.resume()
            stopped.append(vm.events.wait_for("breakpoint").vcpu)
        assert set(stopped) == {0, 1}
        assert _end_of(vm).status == 0


@pytest.mark.kvm
def test_processors_that_the_guest_starts_are_stopped_one_by_one_on_kvm(boot: Boots) -> None:
    built = image_path("hello").parent
    image = built / "suite" / "smp.img"
    symbols = built / "objects" / built.name / "suite" / "smp.elf"
    with boot(image, host="kvm", cpus=3, paused=True, symbols=symbols) as vm:
        vm.breakpoint("processor_main")
        vm.resume()
        stopped = {vm.events.wait_for("breakpoint").vcpu}
        vm.resume()
        stopped.add(vm.events.wait_for("breakpoint").vcpu)
        assert stopped == {1, 2}
        assert _end_of(vm).kind is OutcomeKind.EXITED
