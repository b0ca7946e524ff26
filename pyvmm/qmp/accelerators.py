# SPDX-License-Identifier: MIT
"""QEMU accelerators that work on this host: found out by asking, never assumed.

That QEMU was built with KVM and that /dev/kvm is there says little: on some hosts a QEMU with
``-cpu host`` aborts, because its KVM refuses an MSR that the processor model has. So a machine of
the kind that is meant is started, runs for a moment, and is asked how it does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.qmp.peer import QemuError, QemuPeer, open_qemu

PROBE_PATIENCE = 10.0
"""Seconds that QEMU gets to greet us, and to answer each question of a probe."""


class Accelerator(enum.Enum):
    """Accelerator that executes the guest's instructions; the values are QEMU's names."""

    KVM = "kvm"
    TCG = "tcg"


CPU_MODELS = {Accelerator.KVM: ("host", "max", "qemu64"), Accelerator.TCG: ("max", "qemu64")}
"""The processor models that are tried, the one that has most first."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Result of probing one QEMU with one accelerator: `cpu` is a processor model that works.

    Where it is None nothing does, and `why` says so; otherwise `why` says what did not work, or
    nothing. `version` is QEMU's, "" where it never said.
    """

    program: str
    accelerator: Accelerator
    machine: str
    cpu: str | None
    version: str
    why: str = ""

    @property
    def works(self) -> bool:
        """True if a guest can be run so."""
        return self.cpu is not None


_VERSION = ("major", "minor", "micro")


class Accelerators:
    """Probes that were made so far: each is made once, as long as its owner keeps this."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Accelerator, str], Probe] = {}

    async def probe(
        self, program: str, accelerator: Accelerator, machine: str, patience: float = PROBE_PATIENCE
    ) -> Probe:
        """Find out, or remember. Raises as `probe`."""
        key = (program, accelerator, machine)
        if key not in self._known:
            self._known[key] = await probe(program, accelerator, machine, patience)
        return self._known[key]


async def probe(
    program: str, accelerator: Accelerator, machine: str, patience: float = PROBE_PATIENCE
) -> Probe:
    """Find out which processor model works.

    Raises `HostLacksError` where `program` is not there at all, and `QemuError` where it runs but
    is no QEMU (it hangs, or babbles): then nothing it could do is of interest.
    """
    version = await _version(program, patience)
    refusals: list[str] = []
    for cpu in CPU_MODELS[accelerator]:
        command = [
            program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", machine, "-accel", accelerator.value, "-cpu", cpu, "-m", "2M", "-S",
        ]  # fmt: skip
        try:
            async with open_qemu(command, patience=patience) as peer:
                await _check(peer, accelerator, patience)
        except PyvmmError as error:
            refusals.append(f"{cpu}: {_short(error)}")
        else:
            return Probe(program, accelerator, machine, cpu, version, "; ".join(refusals))
    return Probe(program, accelerator, machine, None, version, "; ".join(refusals))


async def _version(program: str, patience: float) -> str:
    """QEMU's version, from a machine that has nothing and so cannot fail for lack of anything."""
    command = [program, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]
    async with open_qemu(command, patience=patience) as peer:
        answer = await peer.execute("query-version", patience=patience)
        try:
            return ".".join(str(int(answer["qemu"][part])) for part in _VERSION)
        except (TypeError, KeyError, ValueError):
            raise _senseless(peer, "query-version", answer) from None


async def _check(peer: QemuPeer, accelerator: Accelerator, patience: float) -> None:
    """Let the machine run and look whether it still does. Raises a `PyvmmError` where not."""
    if accelerator is Accelerator.KVM:
        answer = await peer.execute("query-kvm", patience=patience)
        if not isinstance(answer, dict):
            raise _senseless(peer, "query-kvm", answer)
        if not answer.get("enabled"):
            raise HostLacksError("run a guest with KVM", "QEMU says that KVM is not enabled")
    await peer.execute("cont", patience=patience)
    answer = await peer.execute("query-status", patience=patience)
    if not isinstance(answer, dict):
        raise _senseless(peer, "query-status", answer)
    if answer.get("status") not in {"running", "shutdown"}:
        raise HostLacksError("run a guest", f"the machine's state is {answer.get('status')!r}")


def _senseless(peer: QemuPeer, command: str, answer: object) -> QemuError:
    return peer.failure(f"ask QEMU to {command}", f"its answer makes no sense: {answer!r:.80}")


def _short(error: PyvmmError) -> str:
    """Return the text to tell of a failed probe: QEMU's own words where it had some."""
    if isinstance(error, QemuError) and error.last_lines:
        return error.last_lines
    return error.cause
