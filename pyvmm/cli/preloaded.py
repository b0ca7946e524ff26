# SPDX-License-Identifier: MIT
"""The pyvmm command, loaded once and forked from then on (``python -m``, inside the lab only)."""

from __future__ import annotations

import sys

import rich.console
import rich.table  # noqa: F401

# All that a command may need: imported late elsewhere, so that each pays only for its own.
import pyvmm.acpi.dsdt
import pyvmm.acpi.tables
import pyvmm.boot.initrd
import pyvmm.boot.linux_loading
import pyvmm.cli.demo
import pyvmm.cli.disk_option
import pyvmm.cli.doctor
import pyvmm.cli.guests
import pyvmm.cli.main
import pyvmm.cli.run
import pyvmm.demo.house.process
import pyvmm.demo.stage.pins
import pyvmm.demo.stage.private
import pyvmm.hosts.kvm.block_engine
import pyvmm.hosts.kvm.doorbells
import pyvmm.hosts.kvm.lines
import pyvmm.hosts.kvm.resampling
import pyvmm.hosts.kvm.sleeping
import pyvmm.hosts.kvm.system
import pyvmm.hosts.kvm.vcpu_codec
import pyvmm.hosts.kvm.xsave_trial
import pyvmm.machine.acpi_machine
import pyvmm.machine.blocking
import pyvmm.machine.console.attach
import pyvmm.machine.cpu_identity
import pyvmm.machine.disks.opening
import pyvmm.machine.examination
import pyvmm.machine.halt_watch
import pyvmm.machine.hardware_devices
import pyvmm.machine.pci.function
import pyvmm.machine.report
import pyvmm.machine.running
import pyvmm.machine.virtio.block
import pyvmm.machine.virtio.rng
from pyvmm.lab import preload

if __name__ == "__main__":
    preload.serve()
    sys.exit(pyvmm.cli.main.process())
