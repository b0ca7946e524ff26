# SPDX-License-Identifier: MIT
"""Choice of the host that runs a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.hosts.interface import System
from pyvmm.machine.config import HostChoice
from pyvmm.memory.backing import PrivateBacking, choose_private_backing

if TYPE_CHECKING:  # Most machines are not recorded.
    from pyvmm.hosts.call_record import Recorder


class OpenedHost(NamedTuple):
    """A host to run on; `without_kvm` is why it is not KVM, where that was left to us."""

    system: System
    choice: HostChoice
    without_kvm: PyvmmError | None = None


def open_host(
    choice: HostChoice,
    *,
    private: PrivateBacking | None = None,
    recorder: Recorder | None = None,
) -> OpenedHost:
    """Open the host asked for; `private`: the machine is to have private memory, backed like that.

    The model can do either, and so is what is asked for: by itself it is two-sided.

    `recorder` is told of what is asked of the host from the first call on.

    Raises `HostLacksError`, `NoPermissionError` or `SystemCallError` when it cannot be used.
    """
    match choice:
        case HostChoice.KVM:
            return OpenedHost(_kvm(recorder, private=private), choice)
        case HostChoice.MODEL:
            return OpenedHost(_model(recorder, private), choice)
        case HostChoice.AUTO:
            try:
                return OpenedHost(_kvm(recorder, private=private), HostChoice.KVM)
            except PyvmmError as without_kvm:
                system = _model_instead(without_kvm, recorder, private)
                return OpenedHost(system, HostChoice.MODEL, without_kvm)


def _kvm(recorder: Recorder | None, *, private: PrivateBacking | None) -> System:
    from pyvmm.hosts.kvm.system import System as KvmSystem

    system = KvmSystem(recorder=recorder)
    if private is not None:
        try:
            # Asked before a VM is made: a kernel without it would only say EINVAL.
            choose_private_backing(system.capabilities(), private)
        except BaseException:
            system.close()
            raise
    return system


def _model(recorder: Recorder | None, private: PrivateBacking | None) -> System:
    from pyvmm.hosts.model.system import ModelSystem
    from pyvmm.rules.profile import IN_PLACE, MAINLINE

    profile = IN_PLACE if private is PrivateBacking.IN_PLACE else MAINLINE
    if recorder is None:
        return ModelSystem(profile)
    from pyvmm.hosts.model.recorded import RecordedModelSystem

    return RecordedModelSystem(profile, recorder=recorder)


def _model_instead(
    without_kvm: PyvmmError, recorder: Recorder | None, private: PrivateBacking | None
) -> System:
    """The model. Raises `HostLacksError` without it, which tells what both of them lack."""
    try:
        return _model(recorder, private)
    except HostLacksError as without_model:
        raise HostLacksError(
            "run a guest",
            f"KVM: {without_kvm.cause}; and the model, which needs no KVM: {without_model.cause}",
            " or ".join(filter(None, (without_kvm.remedy, without_model.remedy))),
        ) from without_kvm
