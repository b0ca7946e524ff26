# SPDX-License-Identifier: MIT
"""x-pyvmm-...: what they tell is what the machine and the kernel have."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from pyvmm.machine.config import HostChoice
from pyvmm.machine.machine import Machine
from pyvmm.memory.address_map import SlotNumber
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.conversion import Refusal
from pyvmm.memory.layout import HOLE_START, MIB, WINDOW_GPA
from pyvmm.qmp import vendor_commands
from pyvmm.qmp.command import CommandError
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of
from tests.machine.private_machines import Talk, config, talk

from .guests import HOSTS, run, spinning

GUEST_MEMFDS = {"[kvm-gmem]", "[guest_memfd]"}
"""What kernels call the file, each in words of its own around it."""


def mapped() -> list[str]:
    return Path("/proc/self/maps").read_text(encoding="ascii").splitlines()


def privately(host: HostChoice, conversation: Callable[[Talk], Awaitable[None]]) -> None:
    """Beside a private guest."""

    async def then_end(guest: Talk) -> None:
        await conversation(guest)
        guest.machine.control.interrupt("enough")

    talk(replace(config("mailbox"), host=host), then_end)


async def ask(machine: Machine, name: str, **arguments: Any) -> Any:
    return await run(machine, f"x-pyvmm-{name}", **arguments)


# -- page states --


@pytest.mark.parametrize("host", HOSTS)
def test_a_shared_machine_is_one_run(host: HostChoice) -> None:
    async def main() -> None:
        async with spinning(host, 4 * MIB) as machine:
            ram_of(machine).write(3 * MIB, b"x")
            (run_,) = (await ask(machine, "query-page-states"))["runs"]
            resident = run_.pop("resident")
            assert run_ == {"start": 0, "end": 4 * MIB, "state": "shared", "region": "RAM"}
            assert resident == {
                "shared": ram_of(machine).mapping.resident(0, 4 * MIB),
                "private": 0,
            }
            assert 0 < resident["shared"] < MIB
            (part,) = (await ask(machine, "query-page-states", start=3 * MIB + 5, size=10))["runs"]
            assert (part["start"], part["end"]) == (3 * MIB + 5, 3 * MIB + 15)
            assert part["resident"]["shared"] == PAGE_SIZE
            assert await ask(machine, "query-page-states", start=1 << 40) == {"runs": []}

    trio.run(main)


def test_page_states_are_told_run_by_run(
    private_choice: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor_commands, "MOST_RUNS", 3)

    async def conversation(guest: Talk) -> None:
        machine = guest.machine
        gpa = await guest.take(2 * MIB)
        await ask(machine, "convert", start=gpa, size=2 * MIB, to="private")
        await ask(machine, "convert", start=gpa + PAGE_SIZE, size=PAGE_SIZE, to="shared")
        await ask(machine, "convert", start=gpa + 3 * PAGE_SIZE, size=PAGE_SIZE, to="shared")
        machine.memory.write(gpa + PAGE_SIZE, b"x")
        first = await ask(machine, "query-page-states", start=gpa, size=2 * MIB)
        rest = await ask(
            machine, "query-page-states",
            start=first["next"], size=gpa + 2 * MIB - first["next"],
        )  # fmt: skip
        assert "next" not in rest
        runs = first["runs"] + rest["runs"]
        assert len(first["runs"]) == 3
        assert [run_["state"] for run_ in runs] == ["private", "shared"] * 2 + ["private"]
        assert all(one["end"] == two["start"] for one, two in pairwise(runs))
        assert runs[1]["resident"] == {"shared": PAGE_SIZE, "private": 0}
        assert runs[3]["resident"] == {"shared": 0, "private": 0}
        assert (runs[0]["start"], runs[-1]["end"]) == (gpa, gpa + 2 * MIB)
        (window,) = (await ask(machine, "query-page-states", start=HOLE_START))["runs"]
        assert window["region"] == "shared window"
        assert window["state"] == "withheld"

    privately(private_choice, conversation)


# -- conversions --


def test_a_conversion_is_done(private_choice: HostChoice) -> None:
    async def conversation(guest: Talk) -> None:
        machine = guest.machine
        gpa = await guest.take(2 * MIB)
        given = {"start": gpa, "size": 2 * PAGE_SIZE}
        assert await ask(machine, "convert", **given, to="shared") == {}
        assert machine.memory.write(gpa, b"x")
        assert await ask(machine, "convert", **given, to="private") == {}
        assert not machine.memory.write(gpa, b"x")
        window = {"start": WINDOW_GPA, "size": PAGE_SIZE}
        await ask(machine, "convert", **window, to="shared")
        assert machine.memory.read(WINDOW_GPA, 1) == b"\0"
        await ask(machine, "convert", **window, to="withheld")
        assert machine.memory.read(WINDOW_GPA, 1) is None

    privately(private_choice, conversation)


def test_a_refused_conversion_is_told_by_name_and_changes_nothing(
    private_choice: HostChoice,
) -> None:
    refused = [
        (Refusal.EMPTY, {"start": MIB, "size": 0, "to": "private"}),
        (Refusal.UNALIGNED, {"start": MIB + 1, "size": PAGE_SIZE, "to": "private"}),
        (Refusal.OVERFLOW, {"start": -PAGE_SIZE, "size": 2 * PAGE_SIZE, "to": "shared"}),
        (Refusal.UNCOVERED, {"start": 1 << 40, "size": PAGE_SIZE, "to": "shared"}),
        (Refusal.NO_PRIVATE_SIDE, {"start": WINDOW_GPA, "size": PAGE_SIZE, "to": "private"}),
        (Refusal.HAS_PRIVATE_SIDE, {"start": MIB, "size": PAGE_SIZE, "to": "withheld"}),
    ]

    async def conversation(guest: Talk) -> None:
        before = guest.memory.states.runs()
        for refusal, given in refused:
            with pytest.raises(CommandError) as caught:
                await ask(guest.machine, "convert", **given)
            assert caught.value.description.startswith(f"{refusal.name}: cannot convert")
            assert refusal.cause in caught.value.description
        guest.memory.leases.patience = 0.0
        gpa = guest.mailbox.gpa
        with (
            guest.memory.lease([(gpa, 8)], holder="net0"),
            pytest.raises(CommandError, match=r"^LEASED: cannot convert .*net0"),
        ):
            await ask(guest.machine, "convert", start=gpa, size=PAGE_SIZE, to="private")
        with pytest.raises(CommandError, match="'to' does not accept value 'nowhere'"):
            await ask(guest.machine, "convert", start=0, size=PAGE_SIZE, to="nowhere")
        assert guest.memory.states.runs() == before

    privately(private_choice, conversation)


@pytest.mark.slow
def test_in_place_a_held_page_is_told_and_memory_counted_once() -> None:
    async def conversation(guest: Talk) -> None:
        gpa = guest.mailbox.gpa
        page = {"start": gpa, "size": PAGE_SIZE}
        file = ram_of(guest.machine).guest_memfd
        assert file is not None
        with (
            file.hold_page(guest.file_offset(gpa)),
            pytest.raises(CommandError, match=rf"^HELD: cannot convert .*{gpa:#x} is held"),
        ):
            await ask(guest.machine, "convert", **page, to="private")
        with pytest.raises(CommandError, match=r"^NO_ATTRIBUTE: "):
            await ask(guest.machine, "convert", start=WINDOW_GPA, size=PAGE_SIZE, to="withheld")
        answer = await ask(guest.machine, "query-page-states", **page)
        assert answer["runs"][0]["resident"] == {"shared": PAGE_SIZE, "private": 0}
        assert await ask(guest.machine, "convert", **page, to="private") == {}
        answer = await ask(guest.machine, "query-page-states", **page)
        assert answer["runs"][0]["resident"] == {"shared": 0, "private": PAGE_SIZE}

    async def then_end(guest: Talk) -> None:
        await conversation(guest)
        guest.machine.control.interrupt("enough")

    backing = PrivateBacking.IN_PLACE
    talk(config("mailbox", host=HostChoice.MODEL, backing=backing), then_end)


def test_a_guest_that_has_ended_converts_nothing(private_choice: HostChoice) -> None:
    async def conversation(guest: Talk) -> None:
        guest.machine.control.interrupt("enough")
        with pytest.raises(CommandError, match=r"^OVER: "):
            await ask(guest.machine, "convert", start=MIB, size=PAGE_SIZE, to="shared")

    privately(private_choice, conversation)


def test_a_machine_without_private_memory_converts_nothing() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            for side in ("shared", "private", "withheld"):
                with pytest.raises(CommandError, match=r"^NO_PRIVATE_MEMORY: "):
                    await ask(machine, "convert", start=0, size=PAGE_SIZE, to=side)

    trio.run(main)


# -- exits --


def test_exits_and_conversions_are_counted(private_choice: HostChoice) -> None:
    async def conversation(guest: Talk) -> None:
        gpa = await guest.take(2 * MIB)
        before = await ask(guest.machine, "query-exits")
        await ask(guest.machine, "convert", start=gpa, size=PAGE_SIZE, to="shared")
        after = await ask(guest.machine, "query-exits")
        assert after["conversions"]["host to shared"] == (
            before["conversions"].get("host to shared", 0) + 1
        )
        (vcpu,) = after["vcpus"]
        assert vcpu["cpu-index"] == 0
        # The guest has shared its mailbox; KVM's fast path does that without an exit to Python.
        by_guest = "HYPERCALL" if private_choice is HostChoice.MODEL else "CONVERTED"
        assert vcpu["exits"][by_guest] > 0
        assert 0 < len(vcpu["recent"]) <= 32
        assert after["failures"] == []

    privately(private_choice, conversation)


@pytest.mark.parametrize("host", HOSTS)
def test_every_vcpu_has_its_exits(host: HostChoice) -> None:
    async def main() -> None:
        async with spinning(host, cpus=2) as machine:
            vcpus = (await ask(machine, "query-exits"))["vcpus"]
            assert [one["cpu-index"] for one in vcpus] == [0, 1]

    trio.run(main)


# -- handles --


def named(answer: Any) -> dict[str, Any]:
    return {one["name"]: one for one in answer["handles"]}


@pytest.mark.kvm
def test_handles_are_what_this_process_has_open() -> None:
    async def main() -> None:
        async with spinning(HostChoice.KVM, cpus=2) as machine:
            answer = await ask(machine, "query-handles")
            handles = named(answer)
            links = {
                name: os.readlink(f"/proc/self/fd/{one['fd']}")
                for name, one in handles.items()
                if "fd" in one
            }
            assert links["system"] == "/dev/kvm"
            assert links["vm"] == "anon_inode:kvm-vm"
            assert links["vcpu0"] == "anon_inode:kvm-vcpu:0"
            assert links["vcpu1"] == "anon_inode:kvm-vcpu:1"
            assert handles["vcpu1"]["keeps"] == ["vm"]
            if ram_of(machine).guest_memfd is not None:
                assert any(name in links["guest-memfd"] for name in GUEST_MEMFDS)
                assert handles["mapping of RAM"]["keeps"] == ["guest-memfd"]
            else:
                assert "memfd:pyvmm-guest" in links["mapping of RAM"]
            start = f"{handles['mapping of RAM']['hva']:x}-"
            assert any(line.startswith(start) for line in mapped())
            (slot,) = answer["memslots"]
            assert (slot["start"], slot["end"]) == (0, 4 * MIB)
            assert slot["mapping"] == "mapping of RAM"
            assert ("binding" in slot) == (ram_of(machine).guest_memfd is not None)

    trio.run(main)


def test_a_private_machine_s_handles(private_choice: HostChoice) -> None:
    async def conversation(guest: Talk) -> None:
        answer = await ask(guest.machine, "query-handles")
        handles = named(answer)
        # Both sides of RAM: its mapping does not keep the file of the private one.
        assert handles["mapping of RAM"]["keeps"] == []
        file = handles["guest-memfd"]
        assert ("fd" in file) == (private_choice is HostChoice.KVM)
        file.pop("fd", None)
        assert file == {
            "name": "guest-memfd", "kind": "guest-memfd", "size": 16 * MIB, "keeps": ["vm"],
        }  # fmt: skip
        slots = {one["slot"]: one for one in answer["memslots"]}
        assert set(slots) == {0, SlotNumber.WINDOW}, "staging area and firmware have gone"
        assert not {SlotNumber.STAGING, SlotNumber.FIRMWARE} & set(slots)
        assert slots[0]["binding"] == {"handle": "guest-memfd", "offset": 0}
        assert "binding" not in slots[SlotNumber.WINDOW]
        assert slots[SlotNumber.WINDOW]["mapping"] in handles

    privately(private_choice, conversation)
