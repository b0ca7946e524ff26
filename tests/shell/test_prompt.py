# SPDX-License-Identifier: MIT
"""The prompt: what commands show, what is completed, and what is said of mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.shell.bench import Bench, open_bench
from pyvmm.shell.completing import Completer
from pyvmm.shell.console import Console
from pyvmm.shell.desk import Desk, ShowMap


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_bench("model", private="two-sided", watched=True) as made:
        yield made


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return Desk(bench)


def said(
    desk: Desk, capsys: pytest.CaptureFixture[str], *lines: str, show: ShowMap = ShowMap.CHANGED
) -> tuple[list[str], str]:
    """Output and errors of commands."""
    console = Console(desk, show)
    desk.first_map(show)
    capsys.readouterr()
    for line in lines:
        console.push(line)
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_the_map_is_shown_after_a_command_that_changes_it(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(desk, capsys, "1 + 1", "vcpu.get_regs().rip") == (["2", "65520"], "")
    out, _ = said(desk, capsys, "memory.convert(0x4000, 0x2000, private=True)")
    assert out[0].startswith("VM fd ")
    assert out[3:] == [
        "0000000000-0000003fff     16 KiB  shared    held: 0 shared  *",
        "0000004000-0000005fff      8 KiB  private   held: 0 private  *",
        "0000006000-00001fffff   2024 KiB  shared    held: 0 shared  *",
    ]
    out, _ = said(desk, capsys, "memory[0x4001] = b'x'; memory.file.allocate(0x5000, 4096)")
    assert [line for line in out if line.endswith("*")] == [
        "0000004000-0000005fff      8 KiB  private   held: 4 KiB private, 4 KiB shared  *",
    ]
    out, _ = said(desk, capsys, "memory.write(0, b'1')", show=ShowMap.NEVER)
    assert out == []
    out, _ = said(desk, capsys, "None", show=ShowMap.ALWAYS)
    assert len(out) == 6


def test_the_map_has_guests_that_a_command_makes(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    making = "made = guest(b'\\xf4', host=system, bits=16); made.run()"
    out, err = said(desk, capsys, making, "calls()")
    assert err == ""
    assert out[0] == "Hlt()"
    assert sum(line.startswith("VM fd ") for line in out) == 2
    assert any("2 MiB  shared    held: 4 KiB" in line for line in out)
    assert any("KVM_CREATE_VM, argument=DEFAULT" in line for line in out)
    assert out[-1] == "vCPU 0: Hlt()"
    said(desk, capsys, "made.close()")


def test_mistakes_are_told_by_the_users_own_lines(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = said(desk, capsys, "memory.convert(1, 2, private=True)")
    assert err.startswith("RefusedByRuleError: cannot set the attributes of 2 bytes at 0x1: EINVAL")
    assert err.count("\n") == 1
    _, err = said(desk, capsys, "vcpu.kick(1)")
    assert err.splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  File "<shell>", line 1, in <module>',
    ]
    assert err.splitlines()[2].startswith("TypeError: ")
    _, err = said(desk, capsys, "def f():", "  memory.read(-1, 1)", "", "f()")
    assert '  File "<shell>", line 2, in f\n' in err
    assert "pyvmm/shell" not in err


def test_an_ioctl_on_an_object_of_the_model_reaches_no_descriptor_of_the_process(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    # Watched objects of the model have numbers that look like descriptors.
    for target in ("system", "vm", "vcpu", "memory.file"):
        _, err = said(desk, capsys, f"KVM_GET_CLOCK({target})")
        assert err.startswith("HostLacksError: cannot issue KVM_GET_CLOCK on ")
        assert err.count("\n") == 1


def test_leaving_ends_the_prompt(desk: Desk) -> None:
    with pytest.raises(SystemExit) as ended:
        Console(desk, ShowMap.NEVER).push("raise SystemExit(3)")
    assert ended.value.code == 3


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("KVM_SET_MEMORY_A", {"KVM_SET_MEMORY_ATTRIBUTES("}),
        ("x = GUEST_MEMFD_FLAG_", {"GUEST_MEMFD_FLAG_MMAP", "GUEST_MEMFD_FLAG_INIT_SHARED"}),
        ("vm.set_mem", {"vm.set_memory_attributes(", "vm.set_memslot("}),
        ("KVM_SET_MEMORY_ATTRIBUTES(vm, a", {"address=", "attributes="}),
        ("KVM_SET_MEMORY_ATTRIBUTES(vm, address=0, a", {"attributes="}),
        ("memory.convert(0, 4096, p", {"private="}),
        ("MemoryAttribute.P", {"MemoryAttribute.PRIVATE"}),
        ("C.KVM_N", {"C.KVM_NEW(", "C.KVM_NEW_FLAG"}),
        ("C.KVM_NEW(vm, b", {"bits="}),
    ],
)
def test_tab_completes_names_ioctls_flags_and_fields(
    desk: Desk, line: str, among: set[str]
) -> None:
    exec(
        "C = declare('struct new { __u32 bits; };\\n#define KVM_NEW _IOW(KVMIO, 9, struct new)\\n"
        "#define KVM_NEW_FLAG 4\\n')",
        desk.names,
    )
    found = set(Completer(desk.names).matches(line))
    assert among <= found
    last = re.split(r"[ (]", line)[-1]
    assert all(one.startswith(last) for one in found)


def broken_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_objects_say_what_they_are(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(desk, capsys, "system", "vm", "memory", "vcpu", "memory.file", "memory.mapping")
    assert err == ""
    assert out == [
        "<RecordedModelSystem>",
        "<RecordedModelVm of type SW_PROTECTED>",
        "<RAM [0x0, 0x200000), guest_memfd>",
        "<RecordedModelVcpu 0>",
        "<RecordedGuestMemfd of 2097152 bytes, flags 0x0>",
        "<RecordedMapping of 2097152 bytes>",
    ]


@pytest.mark.slow
def test_ipython_has_the_names_and_shows_the_map(
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from IPython.core.completer import provisionalcompleter

    from pyvmm.shell.ipython import make_shell

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = make_shell(desk, ShowMap.CHANGED)
    try:
        desk.first_map(ShowMap.CHANGED)
        shell.run_cell("memory.convert(0, 4096, private=True)")
        out, err = capsys.readouterr()
        assert "0000000000-0000000fff      4 KiB  private   held: 0 private  *\n" in out
        assert err == ""
        shell.run_cell("memory.convert(1, 2, private=True)")
        out, err = capsys.readouterr()
        assert "pyvmm/shell" not in out + err
        assert err.startswith("RefusedByRuleError: cannot set")
        assert err.count("\n") == 1
        for broken in ("memory.write(0, 'text')", "def f(n):\n  vm.set_memslot(n)\nf(1)"):
            shell.run_cell(broken)
            told = re.sub(r"\x1b\[[\d;]*m", "", "".join(capsys.readouterr()))
            assert "Error" in told
            assert broken.rpartition("\n")[2] in told
            assert "pyvmm/" not in told
        desk.names["broken_off"] = broken_off
        shell.run_cell("memory.mapping.peek = broken_off\nmemory.read(0, 1)")
        out, err = capsys.readouterr()
        assert "KeyboardInterrupt" in err
        assert "pyvmm/shell" not in out + err
        line = "KVM_SET_MEMORY_ATTRIBUTES(vm, a"
        with provisionalcompleter():
            found = {one.text for one in shell.Completer.completions(line, len(line))}
        assert {"address=", "attributes=", "assemble"} <= found
    finally:
        shell.history_manager.end_session()
        type(shell).clear_instance()
