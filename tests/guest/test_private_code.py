# SPDX-License-Identifier: MIT
"""After a private launch no image executes an instruction that a hypervisor intercepts.

On a processor that does not tell the length of an intercepted instruction, KVM decodes it, and
reads it from where the host sees memory. Private code is not there. The ordinary entry may use such
instructions, and so may functions of the library that panic after a private launch.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.guest.building import PROGRAMS, defines, linked, notes

GUARDED = {"cpuid": "cpuid", "rdmsr": "rdmsr"}
"""Functions that ask first whether there was a private launch, and what they use it for."""
ALLOWED = {"pvh_entry", *GUARDED}

_FUNCTION = re.compile(r"^[0-9a-f]+ <([\w.]+)>:$")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t([a-z0-9(].*)$")
_PREFIXES = {"rep", "repz", "repnz", "lock", "data16", "addr32", "cs", "ds", "rex.W"}
_REGISTERS = re.compile(r"%(cr[048]|db\d|dr\d)\b")
_INTERCEPTED = re.compile(
    r"(cpuid|rdmsr\w*|wrmsr\w*|clts|lmsw|smsw|s[gi]dt|sldt|str|invd|wbn?oinvd|wbinvd|inv\w+|rdpmc"
    r"|xsetbv|monitorx?|mwaitx?|rsm|ins[bwl]?|outs[bwl]?|vmrun|vmload|vmsave|stgi|clgi|skinit"
    r"|getsec|encls)[wlq]?"
)
"""HLT, PAUSE, RDTSC, VMCALL, VMMCALL, IN and OUT with a register need no decoding, or are left
alone, or are the monitor's to complete."""


def functions(image: Path) -> dict[str, list[str]]:
    """The instructions of every function of `image`, in order."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", str(image)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in listing.splitlines():
        if match := _FUNCTION.match(line):
            name = match[1]
        elif match := _INSTRUCTION.match(line):
            found.setdefault(name, []).append(match[1])
    assert found, f"nothing to disassemble in {image}"
    return found


def intercepted(instruction: str) -> bool:
    words = instruction.split()
    while words and words[0] in _PREFIXES:
        words.pop(0)
    return bool(words) and (
        _INTERCEPTED.fullmatch(words[0]) is not None or _REGISTERS.search(instruction) is not None
    )


def executable(image: Path) -> bytes:
    with image.open("rb") as file:
        (text,) = [
            segment.data()
            for segment in ELFFile(file).iter_segments("PT_LOAD")
            if segment.header["p_flags"] & 1
        ]
    assert isinstance(text, bytes)
    return text


@pytest.mark.parametrize("program", PROGRAMS)
def test_intercepted_instructions_are_where_private_code_never_comes(
    images: Path, program: str
) -> None:
    with_symbols = linked(program)
    assert executable(with_symbols) == executable(images / f"{program}.img")
    found = {
        name: bad
        for name, instructions in functions(with_symbols).items()
        if name not in ALLOWED and (bad := [text for text in instructions if intercepted(text)])
    }
    assert found == {}


def test_guarded_functions_look_before(images: Path) -> None:
    code = functions(linked("timer"))
    for name, instruction in GUARDED.items():
        call = next(i for i, text in enumerate(code[name]) if "call" in text)
        assert "<launch_info>" in code[name][call]
        assert call < code[name].index(instruction)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_private_entry_is_where_the_note_says(images: Path, program: str) -> None:
    with linked(program).open("rb") as file:
        (symbol,) = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name("private_entry")
    note = notes(images / f"{program}.img")["pyvmm", defines()["NOTE_PYVMM_PRIVATE_ENTRY"]]
    assert note == symbol["st_value"].to_bytes(8, "little")


@pytest.mark.parametrize(
    "instruction",
    [
        "cpuid",
        "rdmsr",
        "wrmsr",
        "mov %rax, %cr0",
        "mov %cr4, %rax",
        "mov %rax, %cr8",
        "mov %db7, %rax",
        "smsw %ax",
        "clts",
        "invlpg (%rax)",
        "wbinvd",
        "rep outsb",
        "insl",
        "sidt (%rax)",
        "xsetbv",
        "mwait",
    ],
)
def test_intercepted_instructions_are_recognized(tmp_path: Path, instruction: str) -> None:
    assert intercepted(assembled(tmp_path, instruction))


@pytest.mark.parametrize(
    "instruction",
    [
        "mov %rax, %cr3",
        "mov %cr2, %rax",
        "lgdt (%rax)",
        "lidt (%rax)",
        "ltr %ax",
        "out %al, %dx",
        "in $0x20, %al",
        "lock xadd %rax, (%rbx)",
        "rep movsb",
        "rep stosq",
        "hlt",
        "pause",
        "rdtsc",
        "vmmcall",
        "iretq",
    ],
)
def test_what_private_code_may_execute_is_not_mistaken(tmp_path: Path, instruction: str) -> None:
    assert not intercepted(assembled(tmp_path, instruction))


def assembled(folder: Path, instruction: str) -> str:
    """`instruction` as objdump writes it."""
    code = folder / "code.o"
    text = f"code: {instruction}\n"
    subprocess.run(["as", "-o", str(code)], input=text, text=True, check=True)
    (found,) = functions(code)["code"]
    return found
