# SPDX-License-Identifier: MIT
"""Roads to a page: closed where it is private, open where it is shared, and never only said to be.

On the model everywhere; where a kernel has private memory, there.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyvmm.demo.stage.attackers import core, searching
from pyvmm.demo.stage.attackers.core_process import CoreOrder
from pyvmm.demo.stage.attackers.explaining import explained
from pyvmm.demo.stage.attackers.searching import Searcher
from pyvmm.demo.stage.attackers.target import Target
from pyvmm.demo.stage.mailbox import pattern_at
from pyvmm.demo.stage.private import PrivateStage
from pyvmm.demo.stage.private_record import PrivateRecord
from pyvmm.demo.stage.secret import Secret
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Explained, Outcome, Seen, StageHost
from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.call_record import Made
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import Vm
from pyvmm.hosts.model.recorded import RecordedModelVm
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE
from tests.demo.private.stages import PAGE, done, with_stage

GPA = int(PAGE, 16)
WINDOW = "0xc0000000"
HIDE = f"hide-secret {PAGE}"
SHARE = f"convert guest {PAGE} 4096 shared"
OF_A_FILE = {
    Road.FILE_READ: {errno.ESPIPE, errno.EINVAL},
    Road.FILE_MMAP: {errno.ENODEV},
    Road.OTHER_VM: {errno.EINVAL},
}
QUICK = tuple(road for road in Road if road is not Road.CORE)


@pytest.fixture(
    params=[
        StageHost.MODEL,
        pytest.param(StageHost.KVM, marks=[pytest.mark.kvm, pytest.mark.slow]),
    ]
)
def host(request: pytest.FixtureRequest) -> StageHost:
    found: StageHost = request.param
    if found is StageHost.KVM:
        request.getfixturevalue("private_host")
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def attacks(
    host: StageHost, *lines: str, gpa: str = PAGE, roads: tuple[Road, ...] = QUICK
) -> tuple[Secret | None, dict[Road, Outcome]]:
    found: dict[Road, Outcome] = {}
    secrets: list[Secret | None] = []

    async def act(stage: PrivateStage) -> None:
        *_, before = await done(stage, "boot", *lines)
        for road in roads:
            (found[road],) = await done(stage, f"attack {road.value} {gpa}")
            # Looking at the shared side makes it take memory, and changes nothing else.
            after = found[road].after
            if road in {Road.MAPPING, Road.PROC_MEM, Road.VM_READV}:
                after = replace(after, resident=before.after.resident)
            assert after == before.after, road
            before = found[road]
        secrets.append(stage.secret)

    files = len(os.listdir("/proc/self/fd"))
    with_stage(act, host)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert os.listdir(tempfile.gettempdir()) == []
    return secrets[0], found


def seen(outcome: Outcome) -> Seen:
    (one,) = outcome.seen
    return one


@pytest.mark.slow
def test_no_road_leads_to_a_private_secret(host: StageHost) -> None:
    secret, found = attacks(host, HIDE)
    assert secret is not None
    content = {road: seen(outcome).content for road, outcome in found.items()}
    on_model = host is StageHost.MODEL
    assert content == {
        Road.API: Content.REFUSED,
        Road.MAPPING: Content.ZERO,
        Road.PROC_MEM: Content.ZERO,
        Road.VM_READV: Content.ZERO,
        **dict.fromkeys(OF_A_FILE, Content.REFUSED),
        Road.QMP_DUMP: Content.REFUSED,
        # The model's processor needs a pointer to the private side.
        Road.SEARCH: Content.SECRET if on_model else Content.REFUSED,
        Road.REGISTERS: Content.OTHER,
        Road.EXITS: Content.OTHER,
    }
    for road, outcome in found.items():
        got = seen(outcome)
        assert (got.road, got.gpa) == (road, GPA)
        assert outcome.errno == got.errno
        assert bool(got.errno) is (road in OF_A_FILE)
        if got.content is Content.REFUSED:
            assert got.data == b""
            assert got.note
        if road is not Road.SEARCH:
            assert not secret.is_in(got.data, GPA)
    for road in (Road.PROC_MEM, Road.VM_READV, Road.SEARCH):
        assert ("the model's processor" in seen(found[road]).note) is on_model
    if on_model:
        assert "the same call finds the secret" in seen(found[Road.PROC_MEM]).note


@pytest.mark.slow
def test_the_same_roads_lead_to_it_where_it_is_shared(host: StageHost) -> None:
    # Otherwise the test above would prove nothing.
    secret, found = attacks(host, SHARE, HIDE)
    assert secret is not None
    roads = (Road.API, Road.MAPPING, Road.PROC_MEM, Road.VM_READV, Road.QMP_DUMP, Road.SEARCH)
    for road in roads:
        assert seen(found[road]).content is Content.SECRET, road
        assert secret.is_in(seen(found[road]).data, GPA)
    assert "reads of /proc/self/mem" in seen(found[Road.SEARCH]).note
    assert "pyvmm-" in seen(found[Road.SEARCH]).note
    assert {call.name for call in found[Road.SEARCH].calls} == {"preadv"}
    assert "the model's processor" not in seen(found[Road.SEARCH]).note
    # The file shows nothing even so: what is shared is elsewhere.
    for road in OF_A_FILE:
        assert seen(found[road]).content is Content.REFUSED


def test_a_file_closes_its_roads_by_errnos_that_rules_explain(host: StageHost) -> None:
    _, found = attacks(host, HIDE, roads=tuple(OF_A_FILE))
    for road, outcome in found.items():
        assert seen(outcome).errno in OF_A_FILE[road]
        assert outcome.explained is not None
        assert outcome.explained.rule
        assert outcome.explained.source
    calls = [call.request or call.name for call in found[Road.OTHER_VM].calls]
    assert {"KVM_CREATE_VM", "KVM_SET_USER_MEMORY_REGION2"} < set(calls)
    if host is StageHost.KVM:
        for road in (Road.FILE_READ, Road.FILE_MMAP):
            (call,) = found[road].calls
            assert (call.name, call.made) == (road.value, Made.KERNEL)
            assert call.target.startswith("guest_memfd fd ")
            assert (call.result, call.errno) == (-1, seen(found[road]).errno)


@pytest.mark.parametrize("runs", [True, False])
def test_where_another_vm_gets_the_file_its_guest_reads_the_page(
    monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    found: list[tuple[Secret, Outcome, Outcome]] = []

    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot", HIDE)
        system = stage.machine.inside.assembly.system
        file = stage.machine.inside.assembly.ram.guest_memfd
        create = system.create_vm

        def owner(vm_type: VmType) -> Vm:
            made = create(vm_type)
            monkeypatch.setattr(file, "vm", made)
            return made

        monkeypatch.setattr(system, "create_vm", owner)
        if not runs:

            def refuse(_vm: Vm, _index: int) -> None:
                raise SystemCallError("make a vCPU", errno.EMFILE, "EMFILE")

            monkeypatch.setattr(RecordedModelVm, "create_vcpu", refuse)
        hidden, beside = await done(
            stage, f"attack other-vm {PAGE}", f"attack other-vm {GPA + 0x800:#x}"
        )
        assert stage.secret is not None
        found.append((stage.secret, hidden, beside))

    with_stage(act)
    ((secret, hidden, beside),) = found
    if not runs:
        assert seen(hidden).content is Content.REFUSED
        assert "could not be run: EMFILE" in seen(hidden).note
        return
    assert seen(hidden).content is Content.SECRET
    assert secret.is_in(seen(hidden).data, GPA)
    assert (seen(beside).content, seen(beside).data) == (Content.ZERO, bytes(16))


def test_an_errno_that_no_rule_is_about_is_the_kernel_s_word_alone() -> None:
    by = {
        road: explained(Seen(road, GPA, Content.REFUSED, errno=number))
        for road, number in (
            (Road.PROC_MEM, errno.EIO), (Road.FILE_MMAP, errno.EPERM), (Road.API, 0),
        )
    }  # fmt: skip
    assert by == {
        Road.PROC_MEM: Explained("", "Input/output error", ""),
        Road.FILE_MMAP: Explained(
            "", "the rules say otherwise: the file was created without GUEST_MEMFD_FLAG_MMAP", ""
        ),
        Road.API: None,
    }


def test_calls_of_an_attack_are_recorded_and_the_exits_are_those_that_there_were(
    host: StageHost,
) -> None:
    _, found = attacks(host, HIDE, SHARE, roads=(Road.PROC_MEM, Road.VM_READV, Road.EXITS))
    for road, name in ((Road.PROC_MEM, "pread"), (Road.VM_READV, "process_vm_readv")):
        (call,) = found[road].calls
        assert (call.name, call.result, call.errno) == (name, 16, 0)
    assert "vCPU 0: " in seen(found[Road.EXITS]).note


def test_a_page_without_a_private_side_has_no_file() -> None:
    roads = (*OF_A_FILE, Road.MAPPING, Road.API)
    _, found = attacks(StageHost.MODEL, "look", gpa=WINDOW, roads=roads)
    for road in OF_A_FILE:
        assert "no guest_memfd is bound there" in seen(found[road]).note
    assert seen(found[Road.MAPPING]).content is Content.ZERO


def test_what_cannot_be_attacked() -> None:
    async def act(stage: PrivateStage) -> None:
        for line, said in (
            (f"attack api {PAGE}", "there is no machine"),
            ("boot", ""),
            (f"attack search {PAGE}", "hide one first"),
            ("attack mapping 0x8000000000", "there is no memory at 0x8000000000"),
        ):
            if not said:
                await done(stage, line)
                continue
            with pytest.raises(UsageError, match=said):
                await done(stage, line)

    with_stage(act)


@pytest.mark.slow
def test_a_core_has_what_is_shared_and_nothing_that_is_private(host: StageHost) -> None:
    if why_not := core._why_no_file():
        pytest.skip(why_not)
    for lines, content in (((HIDE,), Content.REFUSED), ((SHARE, HIDE), Content.SECRET)):
        _, found = attacks(host, *lines, roads=(Road.CORE,))
        got = seen(found[Road.CORE])
        assert got.content is content, got.note
        assert "a core of" in got.note
        calls = [call.name for call in found[Road.CORE].calls]
        assert calls == ["openat", "pread"][: 1 + (content is Content.SECRET)]
        assert bool(got.data) is (content is Content.SECRET)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("core\n", ""),
        ("core.%p\n", ""),
        ("|/usr/lib/collector %P\n", "to a program here: |/usr/lib/collector"),
        ("/var/cores/%p\n", "written elsewhere"),
        ("\n", "no core is written"),
        ("", "no core_pattern (CONFIG_COREDUMP)"),
    ],
)
def test_where_no_core_is_written_that_is_said(
    pattern: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("proc") / "core_pattern"
    if pattern:
        file.write_text(pattern)
    monkeypatch.setattr(core, "_PATTERN", file)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, -1))
    assert said in core._why_no_file()
    assert bool(core._why_no_file()) is bool(said)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    assert core._why_no_file()
    if said:
        _, found = attacks(StageHost.MODEL, HIDE, roads=(Road.CORE,))
        assert said in seen(found[Road.CORE]).note


def test_a_core_that_is_cut_off_is_known(tmp_path: Path) -> None:
    path = tmp_path / "core"
    whole = Path(sys.executable).read_bytes()
    for size, is_cut in ((len(whole), False), (len(whole) // 2, True), (70, True), (0, True)):
        path.write_bytes(whole[:size])
        assert core._is_cut(path) is is_cut


def test_an_attack_without_a_place_for_its_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Path(tempfile.gettempdir()) / "nowhere"

    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot")
        monkeypatch.setattr(tempfile, "tempdir", str(nowhere))
        (outcome,) = await done(stage, f"attack qmp-dump {PAGE}")
        assert seen(outcome).content is Content.REFUSED
        assert f"it could not be tried: [Errno 2] No such file or directory: '{nowhere}" in (
            seen(outcome).note
        )

    with_stage(act)


@pytest.mark.slow
def test_a_process_that_cannot_make_its_secret_says_why(tmp_path: Path) -> None:
    order = CoreOrder("model", 4 * MIB, 16 * PAGE_SIZE, 1 << 40, shared=False)
    assert CoreOrder.from_line(order.line()) == order
    told: list[str] = []

    def tell(name: str, *_: object, **__: object) -> None:
        told.append(name)

    got = trio.run(core._of_process, order, tmp_path, tell)
    assert told == []
    assert got.content is Content.REFUSED
    assert got.note.startswith(
        "the process did not come to that: cannot try something in the demo: there is no memory at "
        "0x10000000000"
    )
    assert "\n" not in got.note
    assert os.listdir(tmp_path) == []


def test_a_core_s_secret_lies_where_one_can_next_to_the_address() -> None:
    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot none reset-vector")
        machine = stage.machine
        target = Target(machine.inside, machine.inputs, PrivateRecord())
        end = target.sides(GPA).region.range.end
        places = [core._for_secret(target, gpa) for gpa in (GPA, GPA + 7, GPA + 9, end - 1)]
        assert places == [GPA, GPA, GPA + 8, end - 16]

    with_stage(act)


def test_an_attack_that_is_refused_a_machine_of_its_own_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(stage: PrivateStage) -> None:
        await done(stage, "boot", HIDE)

        def refuse(_vm_type: VmType) -> None:
            raise SystemCallError("make a VM", errno.EMFILE, "EMFILE")

        monkeypatch.setattr(stage.machine.inside.assembly.system, "create_vm", refuse)
        tried, again = await done(stage, f"attack other-vm {PAGE}", f"read guest 0 {PAGE}")
        assert (seen(tried).content, tried.errno) == (Content.REFUSED, 0)
        assert seen(tried).note == "it could not be tried: cannot make a VM: EMFILE"
        assert again.value is not None

    with_stage(act)


def test_a_search_of_a_file_finds_words_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = 64
    monkeypatch.setattr(searching, "_CHUNK", chunk)
    searcher = Searcher(GPA, 5, (0, 8))
    first, second = (pattern_at(GPA + offset, 5).to_bytes(8, "little") for offset in searcher.words)
    path = tmp_path / "file"

    def found() -> list[int]:
        with path.open("rb") as file:
            return searcher.in_file(file.fileno())

    for at in range(3 * chunk):
        path.write_bytes(bytes(at) + first + bytes(3) + second + bytes(at % 80))
        assert found() == [at, at + 11]
    path.write_bytes(first[4:] + first[:4] + second[:7])
    assert found() == []
    path.write_bytes(b"")
    assert found() == []
