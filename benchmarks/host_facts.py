# SPDX-License-Identifier: MIT
"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from pyvmm.errors import PyvmmError


def facts() -> dict[str, str]:
    """Name to value: processor, kernel, Python, KVM, QEMU, load."""
    return {
        "CPU": f"{_processor()}, {os.cpu_count()} processors",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "KVM": _kvm(),
        "QEMU": _qemu(),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _kvm() -> str:
    from pyvmm.hosts.kvm.system import System

    try:
        with System() as system:
            offered = system.capabilities()
    except PyvmmError as error:
        return f"none: {error}"
    types = "/".join(kind.name for kind in sorted(offered.vm_types))
    flags = "|".join(flag.name or "" for flag in offered.guest_memfd_flags) or "none"
    return (
        f"API {offered.api_version}, guest_memfd {'yes' if offered.guest_memfd else 'no'} "
        f"(flags {flags}), memory attributes {int(offered.memory_attributes)}, VM types {types}, "
        f"irqchip {'yes' if offered.irqchip else 'no'}, coalesced PIO "
        f"{'yes' if offered.coalesced_pio else 'no'}"
    )


def _qemu() -> str:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return "none"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0] or "broken"
