# SPDX-License-Identifier: MIT
"""New memory APIs of a kernel, tried from Python before anything is compiled for them.

::

    abi = experiment.declare("#define KVM_NEW _IOWR(KVMIO, 0xd9, struct kvm_new) ...")
    answer = abi.KVM_NEW(vm, gpa=0x1000, size=4096)

The names here are public (docs/experiment.md); each is loaded when it is first used.
"""

TYPE_CHECKING = False  # As typing's; importing that would cost more than all of this.

if TYPE_CHECKING:
    from pyvmm.experiment.c_text import DeclarationError
    from pyvmm.experiment.declarations import Declarations, declare
    from pyvmm.experiment.guest_code import Code, assemble
    from pyvmm.experiment.guests import Guest, guest
    from pyvmm.experiment.ioctls import Answer, Ioctl
    from pyvmm.experiment.short_errors import short_errors
    from pyvmm.experiment.structures import Structure, address_of, type_of
    from pyvmm.hosts.kvm.ownership import FdOwner as Descriptor
    from pyvmm.hosts.raw_exits import RawExit

_MODULES = {
    "Answer": "experiment.ioctls",
    "Code": "experiment.guest_code",
    "DeclarationError": "experiment.c_text",
    "Descriptor": "hosts.kvm.ownership:FdOwner",
    "Declarations": "experiment.declarations",
    "Guest": "experiment.guests",
    "Ioctl": "experiment.ioctls",
    "RawExit": "hosts.raw_exits",
    "Structure": "experiment.structures",
    "address_of": "experiment.structures",
    "assemble": "experiment.guest_code",
    "declare": "experiment.declarations",
    "guest": "experiment.guests",
    "short_errors": "experiment.short_errors",
    "type_of": "experiment.structures",
}
"""Module that each public name is in, and its name there where that is another."""

__all__ = (
    "Answer",
    "Code",
    "DeclarationError",
    "Declarations",
    "Descriptor",
    "Guest",
    "Ioctl",
    "RawExit",
    "Structure",
    "address_of",
    "assemble",
    "declare",
    "guest",
    "short_errors",
    "type_of",
)


if not TYPE_CHECKING:  # A type checker takes every name for there that this function may return.

    def __getattr__(name: str) -> object:
        """Load a public name. Raises `AttributeError` for any other."""
        place = _MODULES.get(name)
        if place is None:
            raise AttributeError(f"module 'pyvmm.experiment' has no attribute {name!r}")
        from importlib import import_module

        module, _, other_name = place.partition(":")
        value = getattr(import_module(f"pyvmm.{module}"), other_name or name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
