# SPDX-License-Identifier: MIT
"""The images as files: what they carry, how they are laid out, which instructions they use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pyvmm.boot.plan import GuestNeed
from pyvmm.memory.address_map import MemoryType
from pyvmm.memory.layout import HIGH_MEMORY_START, MIN_MEMORY
from tests.guest.building import PROGRAMS, defines, make, notes

_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t([a-z0-9(].*)$", re.MULTILINE)
_VECTOR_OPERAND = re.compile(r"%([xyz]?mm\d|st\b|k[0-7])")
_NOT_BASELINE = {
    "andn", "bextr", "blsi", "blsmsk", "blsr", "bzhi", "mulx", "pdep", "pext", "rorx", "sarx",
    "shlx", "shrx", "tzcnt", "lzcnt", "popcnt", "adcx", "adox", "movbe", "crc32", "rdrand",
    "rdseed", "rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase", "xsave", "xrstor", "fxsave",
    "fxrstor", "ldmxcsr", "stmxcsr", "emms",
}  # fmt: skip
_BEGINS_WITH_V = frozenset({"vmcall", "vmmcall", "verr", "verw"})


def forbidden_instructions(image: Path) -> list[str]:
    """What KVM's instruction emulator does not know, of everything executable in `image`."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(image)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    instructions: list[str] = _INSTRUCTION.findall(listing)
    assert instructions, f"nothing to disassemble in {image}"
    return [text for text in instructions if _is_forbidden(text)]


def _is_forbidden(instruction: str) -> bool:
    words = instruction.split()
    for mnemonic in words[:2]:  # the second, where the first is a prefix
        name = mnemonic.rstrip("lqw") if mnemonic not in _NOT_BASELINE else mnemonic
        if name in _NOT_BASELINE:
            return True
    if words[0].startswith("v") and words[0] not in _BEGINS_WITH_V:
        return True
    return _VECTOR_OPERAND.search(instruction) is not None


def test_every_program_has_an_image_and_the_list_of_them_is_complete(images: Path) -> None:
    assert {path.stem for path in images.glob("*.img")} == {*PROGRAMS, "guest"}
    assert (images / "guest.img").read_bytes() == (images / "hello.img").read_bytes()


@pytest.mark.parametrize("program", PROGRAMS)
def test_notes(images: Path, program: str) -> None:
    image = images / f"{program}.img"
    found = notes(image)
    names = defines()
    with image.open("rb") as file:
        entry = ELFFile(file).header["e_entry"]
    assert found.keys() == {
        ("Xen", names["NOTE_XEN_PHYS32_ENTRY"]),
        ("pyvmm", names["NOTE_PYVMM_NEEDS"]),
        ("pyvmm", names["NOTE_PYVMM_PRIVATE_ENTRY"]),
    }
    assert found["Xen", names["NOTE_XEN_PHYS32_ENTRY"]] == entry.to_bytes(4, "little")
    interrupted = (
        "acpi", "balloon", "block", "hostile", "net", "packed", "pci", "ports", "share", "tests",
        "timer", "vsock",
    )  # fmt: skip
    needs = GuestNeed.INTERRUPTS if program in interrupted else GuestNeed(0)
    assert found["pyvmm", names["NOTE_PYVMM_NEEDS"]] == needs.to_bytes(4, "little")


@pytest.mark.parametrize("program", PROGRAMS)
def test_segments_lie_between_1_mib_and_the_least_memory(images: Path, program: str) -> None:
    with (images / f"{program}.img").open("rb") as file:
        elf = ELFFile(file)
        segments = [segment.header for segment in elf.iter_segments("PT_LOAD")]
        assert elf.header["e_machine"] == "EM_X86_64"
        assert elf.header["e_type"] == "ET_EXEC"
    assert min(header["p_paddr"] for header in segments) == HIGH_MEMORY_START
    # A quarter of the second MiB is left for the program.
    assert max(header["p_paddr"] + header["p_memsz"] for header in segments) <= MIN_MEMORY * 7 // 8
    assert sum(header["p_filesz"] for header in segments) <= 56 << 10


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_instructions_that_an_emulator_knows(images: Path, program: str) -> None:
    assert forbidden_instructions(images / f"{program}.img") == []


@pytest.mark.parametrize(
    "instruction",
    [
        "vpxor %xmm0, %xmm0, %xmm0",
        "pxor %xmm0, %xmm0",
        "movd %eax, %mm0",
        "fld %st(1)",
        "tzcnt %rax, %rbx",
        "andn %rax, %rbx, %rcx",
        "shlx %rax, %rbx, %rcx",
        "popcntl %eax, %eax",
        "lock; movbe (%rax), %rbx",
        "vzeroupper",
    ],
)
def test_forbidden_instructions_are_recognized(tmp_path: Path, instruction: str) -> None:
    """The test above is worth something only if this one passes."""
    code = tmp_path / "code.o"
    subprocess.run(
        ["as", "-o", str(code)],
        input=f"mov %rax, %rbx\n{instruction}\nret\n",
        text=True,
        check=True,
    )
    assert len(forbidden_instructions(code)) == 1


def test_protocol_is_numbers_that_the_host_agrees_with() -> None:
    names = defines()
    assert names["NEED_INTERRUPTS"] == GuestNeed.INTERRUPTS
    assert names["MEMORY_RAM"] == MemoryType.RAM
    assert names["MEMORY_RESERVED"] == MemoryType.RESERVED
    assert names["EXIT_PANIC"] <= names["EXIT_STATUS_MAX"]


def test_nothing_is_built_twice(images: Path) -> None:
    assert "Nothing to be done" in make()


@pytest.mark.usefixtures("images")
def test_a_changed_header_rebuilds_what_includes_it() -> None:
    """What make would do if hypercall.h were new."""
    commands = make("--dry-run", "--what-if=include/hypercall.h")
    compiled = set(re.findall(r"-c (\S+)", commands))
    assert compiled == {"lib/hypercall.c", "lib/private.c", "programs/hypercall.c"}
    assert "hypercall.img" in commands


@pytest.mark.slow
def test_out_gets_images_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make("--silent", f"OUT={out}", f"OBJECTS={tmp_path / 'objects'}", "-j2")
    assert {path.name for path in out.iterdir()} == {f"{name}.img" for name in (*PROGRAMS, "guest")}
