# SPDX-License-Identifier: MIT
"""What a plain run loads: every start pays for it, so nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_NOT_NEEDED = (
    "asyncio",
    "elftools",
    "json",
    "pyvmm.boot.foreign",
    "pyvmm.boot.initrd",
    "pyvmm.boot.launch_format",
    "pyvmm.boot.linux_header",
    "pyvmm.boot.linux_loading",
    "pyvmm.boot.long_mode",
    "pyvmm.boot.lz4_legacy",
    "pyvmm.boot.real_mode",
    "pyvmm.boot.zboot",
    "pyvmm.boot.zero_page",
    "pyvmm.compare",
    "pyvmm.devices.pci",
    "pyvmm.gdb",
    "pyvmm.hosts.model",
    "pyvmm.lab",
    "pyvmm.machine.blocking",
    "pyvmm.machine.disks",
    "pyvmm.machine.halt_watch",
    "pyvmm.machine.launch",
    "pyvmm.machine.memory_exits",
    "pyvmm.machine.pci",
    "pyvmm.machine.monitor",
    "pyvmm.machine.network",
    "pyvmm.net",
    "pyvmm.machine.report",
    "pyvmm.machine.saved_machine",
    "pyvmm.machine.virtio",
    "pyvmm.memory.conversion",
    "pyvmm.memory.residency",
    "pyvmm.qmp",
    "pyvmm.rules.rule",
    "pyvmm.testing",
)
"""Modules and packages that are for other guests, other commands, or who asks."""

_EXTRAS = (
    "IPython",
    "capstone",
    "distributed",
    "h11",
    "hypothesis",
    "lz4",
    "pyroute2",
    "pytest",
    "setuptools",
    "websockets",
    "zstandard",
)
"""Packages of the extras: an install of pyvmm alone is without."""


@pytest.mark.kvm
@pytest.mark.slow
def test_a_plain_run_loads_nothing_that_it_does_not_use() -> None:
    code = (
        "import sys; from pyvmm.cli.main import main; "
        "code = main(['run', 'exit', '--append', '7', '--host', 'kvm']); "
        "print(code, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stderr == ""
    status, *loaded = done.stdout.split()
    assert status == "7"
    assert {"pyvmm.machine.running", "pyvmm.hosts.kvm.vm"} <= set(loaded)
    found = [one for one in loaded for name in _NOT_NEEDED if f"{one}.".startswith(f"{name}.")]
    assert found == []


@pytest.mark.kvm
@pytest.mark.slow
def test_what_is_loaded_once_has_all_that_a_machine_with_a_disk_needs(tmp_path: Path) -> None:
    """In the lab a module takes 30 ms to load, and a Linux guest's machine has 60 of its own."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    code = (
        "import sys; from pyvmm.cli import preloaded; from pyvmm.cli.main import main; "
        "before = set(sys.modules); "
        f"code = main(['run', 'block', '--disk', {str(disk)!r}, '--append', 'log=1', '--rng']); "
        "print(code, *(name for name in set(sys.modules) - before if name.startswith('pyvmm')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.slow
def test_every_command_loads_where_no_extra_is_installed() -> None:
    """`pyvmm --help` loads all of them; an install without extras has nothing else."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); "
        "from pyvmm.cli.main import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *_EXTRAS],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "parity" in done.stdout
