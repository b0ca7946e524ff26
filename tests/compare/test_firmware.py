# SPDX-License-Identifier: MIT
"""microvm's firmware: one that leaves RAM alone where QEMU has it; otherwise RAM counts less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyvmm.compare.choosing import DEFAULT_QEMU, Wanted, choose
from pyvmm.compare.differences import Seen, has_pc_bios
from pyvmm.compare.observations import End, EndKind
from pyvmm.compare.subjects import QBOOT, PyvmmHost, QemuAccelerator, QemuMachine, QemuSubject

WITHOUT_QBOOT = f"""\
#!/bin/sh
case "$*" in *firmware={QBOOT}*) echo "could not load PC BIOS '{QBOOT}'" >&2; exit 1;; esac
exec {DEFAULT_QEMU} "$@"
"""
MICROVM = QemuSubject(DEFAULT_QEMU, "7.2", QemuAccelerator.TCG, QemuMachine.MICROVM, "max")


def chosen(program: str) -> QemuSubject:
    wanted = Wanted((PyvmmHost.MODEL,), (program,), (QemuAccelerator.TCG,), (QemuMachine.MICROVM,))
    (_, found), _ = trio.run(choose, wanted)
    assert isinstance(found, QemuSubject)
    return found


@pytest.mark.qemu
def test_a_qemu_without_qboot_has_its_own_firmware(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text(WITHOUT_QBOOT)
    program.chmod(0o755)
    found = chosen(str(program))
    assert (found.firmware, found.cpu) == ("", "max")
    assert found.version == chosen(DEFAULT_QEMU).version
    assert found.machine_option == "microvm"


@pytest.mark.qemu
def test_qboot_is_asked_for_where_it_is() -> None:
    assert chosen(DEFAULT_QEMU) == replace(MICROVM, version=chosen(DEFAULT_QEMU).version)
    assert MICROVM.machine_option == f"microvm,firmware={QBOOT}"


@pytest.mark.parametrize(
    ("subject", "leaves_things"),
    [
        (MICROVM, False),
        (replace(MICROVM, firmware=""), True),
        (replace(MICROVM, machine=QemuMachine.PC), True),
    ],
)
def test_who_leaves_things_in_ram(subject: QemuSubject, *, leaves_things: bool) -> None:
    assert has_pc_bios(Seen(subject, End(EndKind.EXITED, 0))) is leaves_things
    assert subject.machine is not QemuMachine.PC or subject.machine_option == "pc"
