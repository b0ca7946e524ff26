# SPDX-License-Identifier: MIT
"""The description of the registers that GDB asks for: ``target.xml``. Pure.

Source: GDB's manual, "Target Descriptions" and "i386 Features"; bits by SDM vol. 1, 3.4.3 and
vol. 3A, 2.5; EFER by APM vol. 2, 3.1.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from pyvmm.gdb.registers import CORE, SSE, Register

_EFLAGS = {
    "CF": 0, "": 1, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11,
    "NT": 14, "RF": 16, "VM": 17, "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
}  # fmt: skip
_CR0 = {
    "PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29, "CD": 30,
    "PG": 31,
}  # fmt: skip
_CR4 = {
    "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8,
    "OSFXSR": 9, "OSXMMEXCPT": 10, "UMIP": 11, "LA57": 12, "VMXE": 13, "SMXE": 14, "FSGSBASE": 16,
    "PCIDE": 17, "OSXSAVE": 18, "SMEP": 20, "SMAP": 21, "PKE": 22,
}  # fmt: skip
_EFER = {"SCE": 0, "LME": 8, "LMA": 10, "NXE": 11, "SVME": 12, "LMSLE": 13, "FFXSR": 14, "TCE": 15}
_MXCSR = {
    "IE": 0, "DE": 1, "ZE": 2, "OE": 3, "UE": 4, "PE": 5, "DAZ": 6, "IM": 7, "DM": 8, "ZM": 9,
    "OM": 10, "UM": 11, "PM": 12, "FZ": 15,
}  # fmt: skip
_LANES = (
    ("v4_float", "ieee_single", 4), ("v2_double", "ieee_double", 2), ("v16_int8", "int8", 16),
    ("v8_int16", "int16", 8), ("v4_int32", "int32", 4), ("v2_int64", "int64", 2),
)  # fmt: skip


@cache
def target_xml() -> bytes:
    """All of it, as one document."""
    core_types = [
        *_flags("x64_eflags", 4, _EFLAGS), *_flags("x64_cr0", 8, _CR0),
        *_flags("x64_cr4", 8, _CR4), *_flags("x64_efer", 8, _EFER),
    ]  # fmt: skip
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        "<target>",
        "<architecture>i386:x86-64</architecture>",
        *_feature("org.gnu.gdb.i386.core", core_types, CORE),
        *_feature("org.gnu.gdb.i386.sse", [*_vectors(), *_flags("i386_mxcsr", 4, _MXCSR)], SSE),
        "</target>",
    ]
    return "\n".join((*lines, "")).encode("ascii")


def _feature(name: str, types: Sequence[str], registers: Iterable[Register]) -> list[str]:
    described = []
    for one in registers:
        group = f' group="{one.group}"' if one.group else ""
        described.append(f'<reg name="{one.name}" bitsize="{one.bits}" type="{one.type}"{group}/>')
    return [f'<feature name="{name}">', *types, *described, "</feature>"]


def _flags(name: str, size: int, bits: dict[str, int]) -> list[str]:
    fields = [f'<field name="{one}" start="{bit}" end="{bit}"/>' for one, bit in bits.items()]
    return [f'<flags id="{name}" size="{size}">', *fields, "</flags>"]


def _vectors() -> list[str]:
    vectors = [f'<vector id="{one}" type="{kind}" count="{n}"/>' for one, kind, n in _LANES]
    fields = [f'<field name="{one}" type="{one}"/>' for one, _, _ in _LANES]
    last = '<field name="uint128" type="uint128"/>'
    return [*vectors, '<union id="vec128">', *fields, last, "</union>"]
