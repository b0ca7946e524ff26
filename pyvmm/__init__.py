# SPDX-License-Identifier: MIT
"""pyvmm: a virtual machine monitor for understanding, prototyping and testing guest memory.

::

    async with pyvmm.open_machine(pyvmm.MachineConfig(pyvmm.guest_image("hello"))) as machine:
        print(await machine.console.read_all())

The names here are the public API, kept stable and documented in docs/api.md; everything else may
change at any time. Each is loaded when it is first used (PEP 562): importing pyvmm costs nothing.
"""

TYPE_CHECKING = False  # As typing's; importing that would cost more than all of this.

if TYPE_CHECKING:
    from pyvmm.bundled_guests import firmware
    from pyvmm.errors import (
        ConversionRefusedError,
        HostLacksError,
        ImageError,
        InternalError,
        NoInputError,
        NoPermissionError,
        PyvmmError,
        SystemCallError,
        UsageError,
    )
    from pyvmm.hosts.held_ranges import LeaseRefusal
    from pyvmm.machine.attributes import HeldPageError
    from pyvmm.machine.blocking import (
        Completed,
        open_blocking_machine,
        run,
    )
    from pyvmm.machine.blocking_objects import BlockingMachine
    from pyvmm.machine.config import (
        HostChoice,
        ImplicitPolicy,
        IrqchipPolicy,
        MachineConfig,
        PrivateConfig,
        RebootPolicy,
    )
    from pyvmm.machine.console.collector import Collector
    from pyvmm.machine.ending import (
        Ending,
        EndingKind,
        Requester,
        RunResult,
    )
    from pyvmm.machine.events import (
        AccessRefused,
        BreakpointHit,
        CaptureFailed,
        DiskFailed,
        Ended,
        LinkChanged,
        MachineEvent,
        NetworkEnded,
        Paused,
        PowerdownAsked,
        ReceiveFilterChanged,
        Resumed,
        Stepped,
        WasReset,
    )
    from pyvmm.machine.image_file import guest_image
    from pyvmm.machine.implicit import ImplicitConversion
    from pyvmm.machine.leases import Lease, LeaseHeldError, LeaseRefusedError
    from pyvmm.machine.loop_thread import LoopThread
    from pyvmm.machine.machine import Machine
    from pyvmm.machine.running import open_machine
    from pyvmm.machine.saved_file import SavedFileError
    from pyvmm.machine.saved_machine import SavedMachine
    from pyvmm.machine.steering import MachineState
    from pyvmm.memory.backing import PrivateBacking
    from pyvmm.memory.conversion import Side
    from pyvmm.memory.page_states import PageState

__all__ = (
    "AccessRefused",
    "BlockingMachine",
    "BreakpointHit",
    "CaptureFailed",
    "Collector",
    "Completed",
    "ConversionRefusedError",
    "DiskFailed",
    "Ended",
    "Ending",
    "EndingKind",
    "HeldPageError",
    "HostChoice",
    "HostLacksError",
    "ImageError",
    "ImplicitConversion",
    "ImplicitPolicy",
    "InternalError",
    "IrqchipPolicy",
    "Lease",
    "LeaseHeldError",
    "LeaseRefusal",
    "LeaseRefusedError",
    "LinkChanged",
    "LoopThread",
    "Machine",
    "MachineConfig",
    "MachineEvent",
    "MachineState",
    "NetworkEnded",
    "NoInputError",
    "NoPermissionError",
    "PageState",
    "Paused",
    "PowerdownAsked",
    "PrivateBacking",
    "PrivateConfig",
    "PyvmmError",
    "RebootPolicy",
    "ReceiveFilterChanged",
    "Requester",
    "Resumed",
    "RunResult",
    "SavedFileError",
    "SavedMachine",
    "Side",
    "Stepped",
    "SystemCallError",
    "UsageError",
    "WasReset",
    "firmware",
    "guest_image",
    "open_blocking_machine",
    "open_machine",
    "run",
)

_MODULES = {
    "AccessRefused": "pyvmm.machine.events",
    "BlockingMachine": "pyvmm.machine.blocking_objects",
    "BreakpointHit": "pyvmm.machine.events",
    "CaptureFailed": "pyvmm.machine.events",
    "DiskFailed": "pyvmm.machine.events",
    "Collector": "pyvmm.machine.console.collector",
    "Completed": "pyvmm.machine.blocking",
    "ConversionRefusedError": "pyvmm.errors",
    "Ended": "pyvmm.machine.events",
    "Ending": "pyvmm.machine.ending",
    "EndingKind": "pyvmm.machine.ending",
    "HeldPageError": "pyvmm.machine.attributes",
    "HostChoice": "pyvmm.machine.config",
    "HostLacksError": "pyvmm.errors",
    "ImageError": "pyvmm.errors",
    "ImplicitConversion": "pyvmm.machine.implicit",
    "ImplicitPolicy": "pyvmm.machine.config",
    "InternalError": "pyvmm.errors",
    "IrqchipPolicy": "pyvmm.machine.config",
    "Lease": "pyvmm.machine.leases",
    "LeaseHeldError": "pyvmm.machine.leases",
    "LeaseRefusal": "pyvmm.hosts.held_ranges",
    "LeaseRefusedError": "pyvmm.machine.leases",
    "LinkChanged": "pyvmm.machine.events",
    "LoopThread": "pyvmm.machine.loop_thread",
    "Machine": "pyvmm.machine.machine",
    "MachineConfig": "pyvmm.machine.config",
    "MachineEvent": "pyvmm.machine.events",
    "MachineState": "pyvmm.machine.steering",
    "NetworkEnded": "pyvmm.machine.events",
    "NoInputError": "pyvmm.errors",
    "NoPermissionError": "pyvmm.errors",
    "PageState": "pyvmm.memory.page_states",
    "Paused": "pyvmm.machine.events",
    "PowerdownAsked": "pyvmm.machine.events",
    "PrivateBacking": "pyvmm.memory.backing",
    "PrivateConfig": "pyvmm.machine.config",
    "PyvmmError": "pyvmm.errors",
    "RebootPolicy": "pyvmm.machine.config",
    "ReceiveFilterChanged": "pyvmm.machine.events",
    "Requester": "pyvmm.machine.ending",
    "Resumed": "pyvmm.machine.events",
    "RunResult": "pyvmm.machine.ending",
    "SavedFileError": "pyvmm.machine.saved_file",
    "SavedMachine": "pyvmm.machine.saved_machine",
    "Side": "pyvmm.memory.conversion",
    "Stepped": "pyvmm.machine.events",
    "SystemCallError": "pyvmm.errors",
    "UsageError": "pyvmm.errors",
    "WasReset": "pyvmm.machine.events",
    "firmware": "pyvmm.bundled_guests",
    "guest_image": "pyvmm.machine.image_file",
    "open_blocking_machine": "pyvmm.machine.blocking",
    "open_machine": "pyvmm.machine.running",
    "run": "pyvmm.machine.blocking",
}
"""Module that each public name is in."""


if not TYPE_CHECKING:  # A type checker takes every name for there that this function may return.

    def __getattr__(name: str) -> object:
        """Load a public name. Raises `AttributeError` for any other."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module 'pyvmm' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
