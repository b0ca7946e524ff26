# SPDX-License-Identifier: MIT
"""query-stats and query-stats-schemas: KVM's counters in QAPI's shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from pyvmm.hosts.kvm.stats import StatBase, StatDescriptor, Statistic, StatKind, StatUnit
from pyvmm.machine.config import HostChoice
from pyvmm.machine.machine import Machine
from pyvmm.qmp import stats_commands
from pyvmm.qmp.accelerators import Accelerator, probe
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.peer import QmpRefusalError, open_qemu
from pyvmm.qmp.stats_commands import vcpu_path
from tests.machine.guests import bundled

from .guests import HANG, hanging, run, spinning

KVM = pytest.mark.kvm


def named(stats: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in stats}


@KVM
def test_the_vm_and_every_vcpu_have_statistics() -> None:
    async def main() -> None:
        async with spinning(HostChoice.KVM, cpus=2) as machine:
            (vm,) = await run(machine, "query-stats", target="vm")
            assert vm["provider"] == "kvm"
            assert "qom-path" not in vm
            assert "remote_tlb_flush" in named(vm["stats"])
            vcpus = await run(machine, "query-stats", target="vcpu")
            assert [one["qom-path"] for one in vcpus] == [vcpu_path(0), vcpu_path(1)]
            for one in vcpus:
                stats = named(one["stats"])
                assert isinstance(stats["blocking"], bool)
                assert len(stats["halt_wait_hist"]) == 32
                assert isinstance(stats["exits"], int)

    trio.run(main)


@KVM
def test_they_go_on() -> None:
    async def exits(machine: Machine) -> int:
        (vcpu,) = await run(
            machine, "query-stats", target="vcpu",
            providers=[{"provider": "kvm", "names": ["exits"]}],
        )  # fmt: skip
        value = named(vcpu["stats"])["exits"]
        assert isinstance(value, int)
        return value

    async def main() -> None:
        async with spinning(HostChoice.KVM) as machine:
            first = await exits(machine)
            # Each question is itself a kick, and so an exit once the thread has come to run.
            with trio.fail_after(HANG):
                while await exits(machine) <= first:
                    await trio.sleep(0.001)
            await machine.control.pause()
            assert await exits(machine) == await exits(machine)

    trio.run(main)


@KVM
def test_filters() -> None:
    async def main() -> None:
        async with spinning(HostChoice.KVM, cpus=2) as machine:

            async def ask(target: str, **arguments: Any) -> Any:
                return await run(machine, "query-stats", target=target, **arguments)

            two = [{"provider": "kvm", "names": ["exits", "halt_exits", "nonsense"]}]
            found = await ask("vcpu", vcpus=[vcpu_path(1), "/no/such"], providers=two)
            assert [one["qom-path"] for one in found] == [vcpu_path(1)]
            assert set(named(found[0]["stats"])) == {"exits", "halt_exits"}
            assert await ask("vcpu", vcpus=[]) == []
            assert await ask("vm", providers=[]) == []
            assert await ask("vm", providers=[{"provider": "kvm", "names": []}]) == []
            assert await ask("vm", providers=[{"provider": "kvm", "names": ["nonsense"]}]) == []
            whole = [{"provider": "kvm"}, {"provider": "kvm", "names": ["pages_4k"]}]
            assert len((await ask("vm", providers=whole))[0]["stats"]) > 1
            one_by_one = [{"provider": "kvm", "names": [name]} for name in ("pages_4k", "pages_2m")]
            assert len((await ask("vm", providers=one_by_one))[0]["stats"]) == 2

    trio.run(main)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "Parameter 'target' is missing"),
    ({"target": "foo"}, "Parameter 'target' does not accept value 'foo'"),
    ({"target": "vm", "vcpus": ["/foo"]}, "Parameter 'vcpus' is unexpected"),
    ({"target": "vm", "providers": [{"provider": "foo"}]},
     "Parameter 'provider' does not accept value 'foo'"),
    ({"target": "vm", "providers": [{"names": ["a"]}]},
     "Parameter 'providers[0].provider' is missing"),
    ({"target": "vm", "providers": [{"provider": "kvm", "x": 1}]},
     "Parameter 'providers[0].x' is unexpected"),
    ({"target": "vm", "providers": ["kvm"]},
     "Invalid parameter type for 'providers[0]', expected: object"),
    ({"target": "vm", "providers": [{"provider": "kvm", "names": [3]}]},
     "Invalid parameter type for 'providers[0].names[0]', expected: string"),
    ({"target": "vcpu", "vcpus": [3]}, "Invalid parameter type for 'vcpus[0]', expected: string"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            with pytest.raises(CommandError) as caught:
                await run(machine, "query-stats", **arguments)
            assert caught.value.description == message

    trio.run(main)


def test_the_model_has_none() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            for target in ("vm", "vcpu"):
                assert await run(machine, "query-stats", target=target) == []
            assert await run(machine, "query-stats-schemas") == []
            assert await run(machine, "query-stats-schemas", provider="kvm") == []
            with pytest.raises(CommandError, match="does not accept value 'foo'"):
                await run(machine, "query-stats-schemas", provider="foo")

    trio.run(main)


def descriptor(**changes: Any) -> StatDescriptor:
    values: dict[str, Any] = {
        "name": "one", "kind": StatKind.CUMULATIVE, "unit": StatUnit.NONE,
        "base": StatBase.POW10, "exponent": 0, "count": 1, "offset": 0, "bucket_size": 0,
    }  # fmt: skip
    return StatDescriptor(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "schema"),
    [
        ({}, {"type": "cumulative", "exponent": 0}),
        ({"kind": StatKind.PEAK, "unit": StatUnit.BYTES},
         {"type": "peak", "exponent": 0, "unit": "bytes"}),
        ({"unit": StatUnit.SECONDS, "exponent": -9},
         {"type": "cumulative", "exponent": -9, "unit": "seconds", "base": 10}),
        ({"unit": StatUnit.BYTES, "exponent": 12, "base": StatBase.POW2},
         {"type": "cumulative", "exponent": 12, "unit": "bytes", "base": 2}),
        ({"kind": StatKind.LINEAR_HISTOGRAM, "bucket_size": 7, "count": 4},
         {"type": "linear-histogram", "exponent": 0, "bucket-size": 7}),
        ({"kind": StatKind.LOGARITHMIC_HISTOGRAM, "count": 4},
         {"type": "log2-histogram", "exponent": 0}),
        ({"kind": StatKind.INSTANT, "unit": StatUnit.BOOLEAN},
         {"type": "instant", "exponent": 0, "unit": "boolean"}),
        ({"kind": StatKind.INSTANT, "unit": StatUnit.CYCLES},
         {"type": "instant", "exponent": 0, "unit": "cycles"}),
    ],
)  # fmt: skip
def test_schemas(changes: dict[str, Any], schema: dict[str, Any]) -> None:
    assert stats_commands._schema(descriptor(**changes)) == {"name": "one", **schema}


def test_what_qapi_has_no_word_for_is_left_out() -> None:
    known = Statistic(descriptor(), (3,))
    newer = Statistic(descriptor(name="two", kind=9), (4,))
    assert stats_commands._results([known, newer], stats_commands._Filter(), {}) == [
        {"provider": "kvm", "stats": [{"name": "one", "value": 3}]}
    ]


@KVM
@pytest.mark.qemu
def test_the_schemas_are_qemus(tmp_path: Path) -> None:
    """The same kernel's counters, described by QEMU and by us."""
    image = tmp_path / "hang.img"
    image.write_bytes(bundled("hang"))
    command = [
        "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display",
        "none", "-m", "16", "-accel", "kvm", "-serial", "null", "-kernel", str(image),
    ]  # fmt: skip

    def by_target(schemas: Any) -> dict[str, Any]:
        return {
            one["target"]: (one["provider"], sorted(one["stats"], key=lambda stat: stat["name"]))
            for one in schemas
            if one["provider"] == "kvm"  # Newer ones have others beside it.
        }

    async def main() -> None:
        able = await probe(command[0], Accelerator.KVM, "microvm")
        if able.cpu is None:
            pytest.skip(f"QEMU's KVM does not work here: {able.why}")
        async with open_qemu([*command, "-cpu", able.cpu]) as qemu:
            theirs = by_target(await qemu.execute("query-stats-schemas"))
            refusals = {}
            for arguments, message in WRONG:
                with pytest.raises(QmpRefusalError) as caught:
                    await qemu.execute("query-stats", arguments)
                refusals[message] = str(caught.value)
        async with hanging(HostChoice.KVM) as machine:
            assert by_target(await run(machine, "query-stats-schemas")) == theirs
        for message, said in refusals.items():
            assert message in said

    trio.run(main)
