# SPDX-License-Identifier: MIT
"""The kernel change for conversion in place: its interface is the one that pyvmm calls."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cffi
import pytest

from pyvmm.hosts.kvm import in_place
from pyvmm.lab.kernel import known_changes
from pyvmm.lab.kernel.changes import in_place_conversion
from pyvmm.lab.kernel.failures import ChangeDoesNotFitError
from pyvmm.lab.kernel.source_editor import SourceEditor


def test_its_structure_and_request_are_those_of_the_binding() -> None:
    text = in_place_conversion.ABI
    structure = text[text.index("struct kvm_memory_attributes2 {") :].replace("__u64", "uint64_t")
    declared = cffi.FFI()
    declared.cdef(structure)
    size = declared.sizeof("struct kvm_memory_attributes2")
    number = re.search(r"_IOWR\(KVMIO, +(0x[0-9a-f]+), struct kvm_memory_attributes2\)", text)
    assert number is not None
    assert 3 << 30 | size << 16 | 0xAE << 8 | int(number[1], 16) == in_place.REQUEST
    fields = ["offset", "size", "attributes", "flags", "error_offset", "reserved"]
    at = [declared.offsetof("struct kvm_memory_attributes2", field) for field in fields]
    assert at == [0, 8, 16, 24, 32, 40]
    assert declared.offsetof("struct kvm_memory_attributes2", "address") == 0


def test_a_tree_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    header = tmp_path / "include/uapi/linux/kvm.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define KVM_MEMORY_ATTRIBUTE_PRIVATE           (1ULL << 3)\n")
    tree = SourceEditor(tmp_path, "6.12", "in-place-conversion")
    with pytest.raises(ChangeDoesNotFitError, match=r"include/linux/kvm_host\.h"):
        in_place_conversion.change(tree)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [header]
    assert "ATTRIBUTES2" not in header.read_text()


def test_another_text_of_it_is_another_kernel(tmp_path: Path) -> None:
    kept = known_changes.named("in-place-conversion")
    room = Path(in_place_conversion.__file__).parent
    folder = tmp_path / "changes"
    shutil.copytree(room, folder)
    path = folder / "in_place_conversion.py"
    assert known_changes.digest(path) == kept.digest
    part = folder / "_in_place_conversion_text.py"
    part.write_text(part.read_text() + "\n")
    assert known_changes.digest(path) != kept.digest
