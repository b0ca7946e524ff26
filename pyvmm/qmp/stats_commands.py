# SPDX-License-Identifier: MIT
"""query-stats and query-stats-schemas: KVM's binary statistics, in the shapes of qapi/stats.json.

The model counts nothing of the kind: there every answer is an empty list, as QEMU's is without KVM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.machine.config import HostChoice
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind, check

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.hosts.kvm.stats import StatDescriptor, Statistic
    from pyvmm.qmp.served import Served

PROVIDER = "kvm"
VM = "vm"
VCPU = "vcpu"

_PROVIDER_FILTER = (
    Argument("provider", Kind.STRING, choices=(PROVIDER,)),
    Argument("names", Kind.LIST, optional=True),
)
_TYPES = ("cumulative", "instant", "peak", "linear-histogram", "log2-histogram")
_UNITS = (None, "bytes", "seconds", "cycles", "boolean")


def vcpu_path(index: int) -> str:
    """Return the name of a vCPU where QEMU has a path in its object tree."""
    return f"/machine/unattached/device[{index}]"


@dataclass(frozen=True, slots=True)
class _Filter:
    """Names of the statistics that are wanted: None where all are."""

    names: frozenset[str] | None = None

    def wants(self, name: str) -> bool:
        return self.names is None or name in self.names


async def _query_stats(served: Served, arguments: Arguments) -> object:
    machine = served.machine
    if arguments["target"] == VM and "vcpus" in arguments:
        raise CommandError("Parameter 'vcpus' is unexpected")
    wanted = _wanted(arguments)
    paths = _strings("vcpus", arguments.get("vcpus"))
    if wanted is None or machine.host.choice is not HostChoice.KVM:
        return []
    if arguments["target"] == VM:
        return _results(machine.host.statistics(), wanted, {})
    found: list[Mapping[str, object]] = []
    for index in range(machine.config.cpus):
        path = vcpu_path(index)
        if paths is None or path in paths:
            values = await machine.vcpus[index].call(_of_vcpu)
            found += _results(values, wanted, {"qom-path": path})
    return found


def _results(
    values: Sequence[Statistic], wanted: _Filter, owner: Mapping[str, object]
) -> list[Mapping[str, object]]:
    """One StatsResult; none where nothing of it is wanted, as in QEMU."""
    stats = [
        {"name": one.descriptor.name, "value": _value(one)}
        for one in values
        if _is_known(one.descriptor) and wanted.wants(one.descriptor.name)
    ]
    return [{"provider": PROVIDER, "stats": stats, **owner}] if stats else []


async def _query_schemas(served: Served, _arguments: Arguments) -> object:
    machine = served.machine
    if machine.host.choice is not HostChoice.KVM:
        return []
    by_target = {
        VCPU: await machine.vcpus[0].call(_of_vcpu),
        VM: machine.host.statistics(),
    }
    return [
        {
            "provider": PROVIDER,
            "target": target,
            "stats": [_schema(one.descriptor) for one in values if _is_known(one.descriptor)],
        }
        for target, values in by_target.items()
    ]


def _of_vcpu(vcpu: Vcpu) -> Sequence[Statistic]:
    """On the vCPU's thread."""
    from pyvmm.hosts.kvm import vcpu as kvm_vcpu

    assert isinstance(vcpu, kvm_vcpu.Vcpu)
    with vcpu.statistics() as statistics:
        return statistics.read()


def _is_known(descriptor: StatDescriptor) -> bool:
    """Tell whether QAPI has words for it: a newer KVM may have kinds and units that it has not."""
    return descriptor.kind < len(_TYPES) and descriptor.unit < len(_UNITS)


def _value(one: Statistic) -> object:
    from pyvmm.hosts.kvm.stats import StatUnit

    values: Sequence[object] = one.values
    if one.descriptor.unit == StatUnit.BOOLEAN:
        values = [bool(value) for value in one.values]
    return values[0] if one.descriptor.count == 1 else list(values)


def _schema(descriptor: StatDescriptor) -> Mapping[str, object]:
    from pyvmm.hosts.kvm.stats import StatKind, StatUnit

    schema: dict[str, object] = {
        "name": descriptor.name,
        "type": _TYPES[descriptor.kind],
        "exponent": descriptor.exponent,
    }
    unit = _UNITS[descriptor.unit]
    if unit is not None:
        schema["unit"] = unit
    # QEMU says the base where there is something to scale.
    if descriptor.exponent and descriptor.unit != StatUnit.BOOLEAN:
        schema["base"] = int(descriptor.base)
    if descriptor.kind == StatKind.LINEAR_HISTOGRAM:
        schema["bucket-size"] = descriptor.bucket_size
    return schema


# -- the filters --


def _wanted(arguments: Arguments) -> _Filter | None:
    """Return the filter for KVM's statistics; None when none are wanted. Raises `CommandError`."""
    if "providers" not in arguments:
        return _Filter()
    found: _Filter | None = None
    for index, given in enumerate(arguments["providers"]):
        where = f"providers[{index}]"
        checked = _object(where, given)
        names = _strings(f"{where}.names", checked.get("names"))
        if found is None:
            found = _Filter(names)
        elif found.names is None or names is None:
            found = _Filter()
        else:
            found = _Filter(found.names | names)
    return found


def _object(where: str, given: object) -> Arguments:
    if not isinstance(given, dict):
        raise CommandError(f"Invalid parameter type for '{where}', expected: object")
    try:
        return check(_PROVIDER_FILTER, given)
    except CommandError as error:
        told = error.description
        if "does not accept" not in told:
            # As in QEMU: where the member is that something is wrong with.
            told = told.replace("'", f"'{where}.", 1)
        raise CommandError(told) from error


def _strings(where: str, given: Any) -> frozenset[str] | None:
    if given is None:
        return None
    for index, one in enumerate(given):
        if not isinstance(one, str):
            raise CommandError(f"Invalid parameter type for '{where}[{index}]', expected: string")
    return frozenset(given)


STATS_COMMANDS = (
    Command(
        "query-stats",
        (
            Argument("target", Kind.STRING, choices=(VM, VCPU)),
            Argument("vcpus", Kind.LIST, optional=True),
            Argument("providers", Kind.LIST, optional=True),
        ),
        _query_stats,
    ),
    Command(
        "query-stats-schemas",
        (Argument("provider", Kind.STRING, optional=True, choices=(PROVIDER,)),),
        _query_schemas,
    ),
)
