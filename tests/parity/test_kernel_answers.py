# SPDX-License-Identifier: MIT
"""What the running kernel has to answer is read off it, and its KVM does answer so."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.host import profile_of

from .kernel_answers import COMMIT, ONE_STEP, PREPARE, KernelAnswers, read_answers
from .kernel_types import KERNEL, Types

IN_ONE_STEP = KernelAnswers(errno.EINVAL, 0)
IN_TWO = KernelAnswers(errno.EEXIST, errno.EINVAL)
UNKNOWN = KernelAnswers(None, None)


@pytest.mark.kvm
def test_a_host_answers_as_its_kernel_says(system: System, answers: KernelAnswers) -> None:
    """The third witness: what the replay of lifetimes finds by asking."""
    try:
        found = profile_of(system)
    except HostLacksError as error:
        pytest.skip(str(error))
    assert found.bound_twice == answers.bound_twice


def described(folder: Path, *functions: str, module: str = "") -> Path:
    """A kernel with these functions, besides others."""
    lines = [f"0000000000000000 T {name}{module}" for name in ("kvm_init", *functions)]
    symbols = folder / "kallsyms"
    symbols.write_text("\n".join(lines) + "\n", encoding="ascii")
    return symbols


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ([ONE_STEP, "kvm_gmem_unbind"], KernelAnswers(errno.EINVAL, None)),
        ([PREPARE, COMMIT, "kvm_gmem_unbind"], IN_TWO),
        (["kvm_gmem_bind_later", "my_" + COMMIT], UNKNOWN),
        ([], UNKNOWN),
    ],
)
@pytest.mark.parametrize("module", ["", "\t[kvm]"])
def test_answers_by_names_alone(
    tmp_path: Path, functions: list[str], expected: KernelAnswers, module: str
) -> None:
    symbols = described(tmp_path, *functions, module=module)
    assert read_answers(symbols, tmp_path / "no types") == expected


def test_a_kernel_without_names_is_unknown(tmp_path: Path) -> None:
    unknown = read_answers(tmp_path / "nothing", tmp_path)
    assert unknown == UNKNOWN
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="unknown"):
        _ = unknown.bound_twice


U64, S64, LOFF_T, PROTO = 1, 2, 3, 5
"""The numbers of these types; 4 is one that nobody asks for."""


def types(strings: bytes, entries: bytes) -> bytes:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(entries), len(entries), len(strings))
    return header + entries + strings


def write_types(folder: Path, offset_type: int, *, module: bool) -> None:
    """BTF of a kernel with `kvm_gmem_bind`, in itself or in a module of its own."""
    base_strings = b"\0u64\0s64\0loff_t\0room\0"
    entry = struct.Struct("<III")
    base = entry.pack(1, 1 << 24, 8) + struct.pack("<I", 64)
    base += entry.pack(5, 1 << 24, 8) + struct.pack("<I", 1 << 24 | 64)
    base += entry.pack(9, 8 << 24, S64)
    base += entry.pack(16, 4 << 24 | 2, 16) + struct.pack("<6I", 1, U64, 0, 5, S64, 64)
    parameters = struct.pack("<8I", 0, U64, 0, U64, 0, U64, 0, offset_type)
    binding = entry.pack(0, 13 << 24 | 4, 0) + parameters
    binding += entry.pack(len(base_strings), 12 << 24, PROTO)
    strings = ONE_STEP.encode() + b"\0"
    if module:
        (folder / KERNEL).write_bytes(types(base_strings, base))
        (folder / "kvm").write_bytes(types(strings, binding))
    else:
        (folder / KERNEL).write_bytes(types(base_strings + strings, base + binding))


@pytest.mark.parametrize("module", [False, True], ids=["built-in", "module"])
@pytest.mark.parametrize(
    ("offset_type", "expected"),
    [(LOFF_T, IN_ONE_STEP), (U64, KernelAnswers(errno.EINVAL, errno.EINVAL))],
    ids=["signed", "unsigned"],
)
def test_the_offsets_type_decides_where_the_kernel_tells_it(
    tmp_path: Path, offset_type: int, expected: KernelAnswers, module: bool
) -> None:
    write_types(tmp_path, offset_type, module=module)
    symbols = described(tmp_path, ONE_STEP)
    assert read_answers(symbols, tmp_path) == expected
    assert Types(tmp_path, "kvm" if module else KERNEL).parameter_is_signed("no_such", 0) is None
