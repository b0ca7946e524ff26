"""The port numbers that guests are compiled with are those that the machine has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.devices import ports
from pyvmm.devices.pvpanic import PanicEvent
from pyvmm.errors import GUEST_STATUS_MAX

HEADER = Path(__file__).parents[2] / "guest" / "include" / "protocol.h"
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(0[xX][0-9a-fA-F]+|\d+)[ \t]*$", re.MULTILINE)


def defines() -> dict[str, int]:
    return {name: int(value, 0) for name, value in _DEFINE.findall(HEADER.read_text())}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT_SERIAL", ports.COM1),
        ("PORT_DEBUG_CONSOLE", ports.DEBUG_CONSOLE),
        ("PORT_EXIT", ports.EXIT),
        ("EXIT_STATUS_MAX", GUEST_STATUS_MAX),
        ("PORT_PVPANIC", ports.PVPANIC),
        ("PVPANIC_PANICKED", PanicEvent.PANICKED),
    ],
)
def test_both_sides_agree(name: str, value: int) -> None:
    assert defines()[name] == value


def test_every_port_of_the_header_is_compared_or_the_kernels() -> None:
    """The interrupt controllers and the timer are in the kernel (KVM_CREATE_IRQCHIP, PIT2)."""
    found = {name for name in defines() if name.startswith("PORT_")}
    in_kernel = {name for name in found if name.startswith(("PORT_PIC_", "PORT_PIT_"))}
    assert found - in_kernel == {
        "PORT_SERIAL",
        "PORT_DEBUG_CONSOLE",
        "PORT_EXIT",
        "PORT_PVPANIC",
    }
