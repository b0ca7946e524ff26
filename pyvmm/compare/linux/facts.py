# SPDX-License-Identifier: MIT
"""Facts about its machine that a Linux guest has printed, by section, in one form for all machines.

The script ``machine`` prints a line ``@ NAME`` before each section. What differs from boot to boot
(times, the place of the kernel, numbers that Linux gives to interrupts) is no fact.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FIRST_MARK = b"@ uptime"
"""Beginning of all that the script prints."""
_LAST_MARK = "@ end"
_STAMP = re.compile(r"^\[ *\d+\.\d+\] ")
_TABLE = re.compile(r"ACPI: ([A-Z]{4}) 0x[0-9A-F]+ [0-9A-F]+(?: \((v\d+).*)?")
_CHANCE = re.compile(r"CPU: \d+ PID: \d+ |^[0-9a-f]{2}:[0-9a-f]{2}: |irq = \d+, ")
"""Words of the log that are numbers of Linux' own."""
_INTERRUPT = re.compile(r"\d+:(?: +\d+)+ +(.*)")
_NUMBER_OF_MESSAGE = re.compile(r"PCI-MSI \d+-edge|PCI-MSIX?-\S+ +\d+-edge")
_RANGE = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_MIB = 1 << 20
_KERNEL = re.compile(r"Kernel (code|rodata|data|bss)")


class Section(enum.Enum):
    """Section of the facts; the values are the names in the script and in JSON."""

    CPUS = "cpus"
    CLOCK = "clock"
    MEMORY = "memory"
    PCI = "pci"
    VIRTIO = "virtio"
    INTERRUPTS = "interrupts"
    DISK = "disk"
    WARNINGS = "warnings"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one boot: lines by section. `uptime` is the kernel's, in seconds, at the script."""

    uptime: float
    sections: Mapping[Section, tuple[str, ...]]


def facts_of(console: bytes) -> Facts | None:
    """Take apart what the console had; None where the script did not come to its end."""
    raw: dict[str, list[str]] = {}
    inside: list[str] | None = None
    is_whole = False
    for line in console.decode("utf-8", "backslashreplace").replace("\r", "").split("\n"):
        if line == _LAST_MARK:
            is_whole = True
            break
        if line.startswith("@ "):
            inside = raw.setdefault(line[2:], [])
        elif inside is not None and line.strip():
            inside.append(line.rstrip())
    try:
        uptime = float(raw.get("uptime", [""])[0].split()[0])
    except (IndexError, ValueError):
        return None
    if not is_whole or any(section.value not in raw for section in Section):
        return None
    sections = {
        section: tuple(dict.fromkeys(_FORMS[section](raw[section.value]))) for section in Section
    }
    return Facts(uptime, sections)


def _cpus(lines: Sequence[str]) -> list[str]:
    """Join the fields of each processor, from ``processor`` on."""
    found: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        field = f"{name.strip()} {value.strip()}"
        if name.strip() == "processor":
            found.append(field)
        elif found:
            found[-1] += f", {field}"
    return found


def _clock(lines: Sequence[str]) -> list[str]:
    current = [f"current {line.strip()}" for line in lines[:1]]
    return current + [f"available {word}" for line in lines[1:] for word in line.split()]


def _memory(lines: Sequence[str]) -> list[str]:
    """All ranges, and the amount of RAM, in which the kilobytes of firmware do not show."""
    found = []
    ram = 0
    for line in lines:
        place, _, name = line.strip().partition(" : ")
        if name == "System RAM" and (match := _RANGE.fullmatch(place)):
            ram += int(match[2], 16) + 1 - int(match[1], 16)
        # The kernel chooses its own place anew in each boot.
        found.append(name if _KERNEL.fullmatch(name) else f"{place} {name}")
    return [*found, f"System RAM in MiB, rounded up: {-(-ram // _MIB)}"]


def _pci(lines: Sequence[str]) -> list[str]:
    """A line of each function: slot, vendor:device, class, driver, as lspci has them."""
    found = []
    for line in lines:
        words = [word.removeprefix("0x") for word in line.split()]
        if len(words) == 5:
            slot, vendor, device, kind, driver = words
            found.append(f"{slot} {vendor}:{device} class {kind} driver {driver}")
        else:
            found.append(line)
    return found


def _virtio(lines: Sequence[str]) -> list[str]:
    """A line of each device, then one of each feature that its driver has accepted."""
    found = []
    for line in lines:
        words = line.split()
        if len(words) != 5:
            found.append(line)
            continue
        name, kind, status, features, driver = words
        found.append(
            f"{name} device {kind.removeprefix('0x').lstrip('0') or '0'} "
            f"status {status[-2:]} driver {driver}"
        )
        found += [f"{name} feature {bit}" for bit, value in enumerate(features) if value == "1"]
    return found


def _interrupts(lines: Sequence[str]) -> list[str]:
    found = []
    for line in lines:
        match = _INTERRUPT.fullmatch(line.strip())
        text = " ".join((match[1] if match else line).split())
        found.append(_NUMBER_OF_MESSAGE.sub("PCI-MSI", text))
    return sorted(found)


def _disk(lines: Sequence[str]) -> list[str]:
    names = ("sectors of 512 bytes", "SHA-256 of the first MiB")
    values = (line.split()[0] for line in lines)
    return [f"{name} {value}" for name, value in zip(names, values, strict=False)]


def _log(lines: Sequence[str]) -> list[str]:
    found = []
    for line in lines:
        text = _STAMP.sub("", line)
        if table := _TABLE.fullmatch(text):
            text = f"ACPI table {table[1]}" + (f" {table[2]}" if table[2] else "")
        found.append(_CHANCE.sub("", text))
    return found


_FORMS: Mapping[Section, Callable[[Sequence[str]], list[str]]] = {
    Section.CPUS: _cpus,
    Section.CLOCK: _clock,
    Section.MEMORY: _memory,
    Section.PCI: _pci,
    Section.VIRTIO: _virtio,
    Section.INTERRUPTS: _interrupts,
    Section.DISK: _disk,
    Section.WARNINGS: _log,
    Section.LOG: _log,
}
