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
    from pyvmm.experiment.structures import Structure, address_of, type_of

_MODULES = {
    "Answer": "ioctls",
    "Code": "guest_code",
    "DeclarationError": "c_text",
    "Declarations": "declarations",
    "Guest": "guests",
    "Ioctl": "ioctls",
    "Structure": "structures",
    "address_of": "structures",
    "assemble": "guest_code",
    "declare": "declarations",
    "guest": "guests",
    "type_of": "structures",
}
"""Module that each public name is in."""

__all__ = (
    "Answer",
    "Code",
    "DeclarationError",
    "Declarations",
    "Guest",
    "Ioctl",
    "Structure",
    "address_of",
    "assemble",
    "declare",
    "guest",
    "type_of",
)


if not TYPE_CHECKING:  # A type checker takes every name for there that this function may return.

    def __getattr__(name: str) -> object:
        """Load a public name. Raises `AttributeError` for any other."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module 'pyvmm.experiment' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"pyvmm.experiment.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
