# SPDX-License-Identifier: MIT
"""Boot tests: machines as ordinary as fixtures (docs/boot-tests.md).

::

    def test_it_ends_with_9(boot):
        with boot("exit", append="9") as vm:
            assert vm.wait().status == 9

The fixtures are pytest's to find. The names here are for annotations, for ``pytest.raises``, and
for programs that boot guests without pytest; each is loaded when it is first used.
"""

TYPE_CHECKING = False  # As typing's; importing that would cost more than all of this.

if TYPE_CHECKING:
    from pyvmm.testing.async_boots import AsyncBoot, AsyncBoots
    from pyvmm.testing.blocking_vm import Console, Events, Memory, Vm
    from pyvmm.testing.boots import Boot, Boots
    from pyvmm.testing.console import AsyncConsole
    from pyvmm.testing.drivers.driver import (
        CannotError,
        Driver,
        Event,
        EventName,
        Feature,
        Outcome,
        OutcomeKind,
        Registers,
    )
    from pyvmm.testing.drivers.monitors import HostName
    from pyvmm.testing.failures import ExpectError, GuestFailedError
    from pyvmm.testing.network.async_networks import AsyncNetwork, AsyncPort
    from pyvmm.testing.network.networks import Network, Networks
    from pyvmm.testing.network.ports import Port
    from pyvmm.testing.network.recordings import Capture
    from pyvmm.testing.patterns import Match
    from pyvmm.testing.request import BootRequest, make_request
    from pyvmm.testing.results.tap_results import TapFailedError, TapReport, TapResult, TapStatus
    from pyvmm.testing.saved_boots import AsyncBooted, Booted
    from pyvmm.testing.vm import AsyncVm, open_vm
    from pyvmm.testing.vm_events import AsyncEvents
    from pyvmm.testing.vm_memory import AsyncMemory

__all__ = (
    "AsyncBoot",
    "AsyncBooted",
    "AsyncBoots",
    "AsyncConsole",
    "AsyncEvents",
    "AsyncMemory",
    "AsyncNetwork",
    "AsyncPort",
    "AsyncVm",
    "Boot",
    "BootRequest",
    "Booted",
    "Boots",
    "CannotError",
    "Capture",
    "Console",
    "Driver",
    "Event",
    "EventName",
    "Events",
    "ExpectError",
    "Feature",
    "GuestFailedError",
    "HostName",
    "Match",
    "Memory",
    "Network",
    "Networks",
    "Outcome",
    "OutcomeKind",
    "Port",
    "Registers",
    "TapFailedError",
    "TapReport",
    "TapResult",
    "TapStatus",
    "Vm",
    "make_request",
    "open_vm",
)

_MODULES = {
    "AsyncBoot": "pyvmm.testing.async_boots",
    "AsyncBooted": "pyvmm.testing.saved_boots",
    "AsyncBoots": "pyvmm.testing.async_boots",
    "AsyncConsole": "pyvmm.testing.console",
    "AsyncEvents": "pyvmm.testing.vm_events",
    "AsyncMemory": "pyvmm.testing.vm_memory",
    "AsyncNetwork": "pyvmm.testing.network.async_networks",
    "AsyncPort": "pyvmm.testing.network.async_networks",
    "AsyncVm": "pyvmm.testing.vm",
    "Boot": "pyvmm.testing.boots",
    "BootRequest": "pyvmm.testing.request",
    "Booted": "pyvmm.testing.saved_boots",
    "Boots": "pyvmm.testing.boots",
    "CannotError": "pyvmm.testing.drivers.driver",
    "Capture": "pyvmm.testing.network.recordings",
    "Console": "pyvmm.testing.blocking_vm",
    "Driver": "pyvmm.testing.drivers.driver",
    "Event": "pyvmm.testing.drivers.driver",
    "EventName": "pyvmm.testing.drivers.driver",
    "Events": "pyvmm.testing.blocking_vm",
    "ExpectError": "pyvmm.testing.failures",
    "Feature": "pyvmm.testing.drivers.driver",
    "GuestFailedError": "pyvmm.testing.failures",
    "HostName": "pyvmm.testing.drivers.monitors",
    "Match": "pyvmm.testing.patterns",
    "Memory": "pyvmm.testing.blocking_vm",
    "Network": "pyvmm.testing.network.networks",
    "Networks": "pyvmm.testing.network.networks",
    "Outcome": "pyvmm.testing.drivers.driver",
    "OutcomeKind": "pyvmm.testing.drivers.driver",
    "Port": "pyvmm.testing.network.ports",
    "Registers": "pyvmm.testing.drivers.driver",
    "TapFailedError": "pyvmm.testing.results.tap_results",
    "TapReport": "pyvmm.testing.results.tap_results",
    "TapResult": "pyvmm.testing.results.tap_results",
    "TapStatus": "pyvmm.testing.results.tap_results",
    "Vm": "pyvmm.testing.blocking_vm",
    "make_request": "pyvmm.testing.request",
    "open_vm": "pyvmm.testing.vm",
}
"""Module that each public name is in."""


if not TYPE_CHECKING:  # A type checker takes every name for there that this function may return.

    def __getattr__(name: str) -> object:
        """Load a public name. Raises `AttributeError` for any other."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module 'pyvmm.testing' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
