# SPDX-License-Identifier: MIT
"""Choice of the host that runs a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.hosts.interface import System
from pyvmm.machine.config import HostChoice
from pyvmm.memory.backing import choose_two_sided_backing

if TYPE_CHECKING:  # Most machines are not recorded.
    from pyvmm.hosts.call_record import Recorder


class OpenedHost(NamedTuple):
    """A host to run on; `without_kvm` is why it is not KVM, where that was left to us."""

    system: System
    choice: HostChoice
    without_kvm: PyvmmError | None = None


def open_host(
    choice: HostChoice, *, private: bool = False, recorder: Recorder | None = None
) -> OpenedHost:
    """Open the host asked for; `private`: the machine is to have private memory.

    `recorder` is told of what is asked of the host from the first call on.

    Raises `HostLacksError`, `NoPermissionError` or `SystemCallError` when it cannot be used.
    """
    match choice:
        case HostChoice.KVM:
            return OpenedHost(_kvm(recorder, private=private), choice)
        case HostChoice.MODEL:
            return OpenedHost(_model(recorder), choice)
        case HostChoice.AUTO:
            try:
                return OpenedHost(_kvm(recorder, private=private), HostChoice.KVM)
            except PyvmmError as without_kvm:
                system = _model_instead(without_kvm, recorder)
                return OpenedHost(system, HostChoice.MODEL, without_kvm)


def _kvm(recorder: Recorder | None, *, private: bool) -> System:
    from pyvmm.hosts.kvm.system import System as KvmSystem

    system = KvmSystem(recorder=recorder)
    if private:
        try:
            # Asked before a VM is made: a kernel without it would only say EINVAL.
            choose_two_sided_backing(system.capabilities())
        except BaseException:
            system.close()
            raise
    return system


def _model(recorder: Recorder | None) -> System:
    from pyvmm.hosts.model.system import ModelSystem

    if recorder is None:
        return ModelSystem()
    from pyvmm.hosts.model.recorded import RecordedModelSystem

    return RecordedModelSystem(recorder=recorder)


def _model_instead(without_kvm: PyvmmError, recorder: Recorder | None) -> System:
    """The model. Raises `HostLacksError` without it, which tells what both of them lack."""
    try:
        return _model(recorder)
    except HostLacksError as without_model:
        raise HostLacksError(
            "run a guest",
            f"KVM: {without_kvm.cause}; and the model, which needs no KVM: {without_model.cause}",
            " or ".join(filter(None, (without_kvm.remedy, without_model.remedy))),
        ) from without_kvm
