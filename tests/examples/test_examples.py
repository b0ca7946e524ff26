# SPDX-License-Identifier: MIT
"""The examples, run in this process on each host that can: what they print is what they show."""

from __future__ import annotations

import ctypes
import os
import re
import runpy
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pyvmm.errors import NoPermissionError, SystemCallError
from pyvmm.experiment import Guest
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.machine.config import HostChoice
from pyvmm.machine.hosts import open_host

FOLDER = Path(__file__).parent.parent.parent / "examples"
USERFAULTFD = 323
LINES = 60
"""Of a page."""


@cache
def offers(host: str) -> Capabilities:
    with open_host(HostChoice(host)).system as system:
        return system.capabilities()


def any_host(_host: str) -> str:
    return ""


def private_in_vm(host: str) -> str:
    has = offers(host)
    there = VmType.SW_PROTECTED in has.vm_types and MemoryAttribute.PRIVATE in has.memory_attributes
    return "" if there else "no VMs with private memory and attributes: the lab has them"


def private(host: str) -> str:
    has = offers(host)
    there = MemoryAttribute.PRIVATE in has.memory_attributes | has.file_attributes
    return "" if there else "no private memory: the lab has it"


def mapped_file(host: str) -> str:
    flags = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
    there = flags in offers(host).guest_memfd_flags
    return "" if there else "no guest_memfd that can be mapped"


def pre_fault(host: str) -> str:
    return "" if offers(host).pre_fault else "no KVM_PRE_FAULT_MEMORY: the lab has it"


def userfault(_host: str) -> str:
    number = ctypes.CDLL(None, use_errno=True).syscall(USERFAULTFD, os.O_CLOEXEC)
    if number < 0:
        return f"userfaultfd: {os.strerror(ctypes.get_errno())}"
    os.close(number)
    return ""


@dataclass(frozen=True)
class Example:
    """Lines that are printed in this order, as regular expressions; the hosts that it can have.

    `missing` says why a host cannot run it, by its capabilities and not by trying.
    """

    lines: tuple[str, ...]
    hosts: tuple[str, ...] = ("kvm", "model")
    missing: Callable[[str], str] = any_host


EXAMPLES = {
    "hello": Example(("Hello from ten lines", r"it ended with Hlt\(\)")),
    "two_vms_one_file": Example(
        (
            r"the first guest writes .*: Hlt\(\)",
            "the second VM binds the first one's file: EINVAL .*",
            r"the second VM takes .*: Hlt\(\)",
            "the second guest reads 0x12345678",
        ),
        missing=mapped_file,
    ),
    "conversion_by_hypercall": Example(
        (
            r"Hypercall\(number=12, args=\(16777216, 1, 16, .*",
            r"Hlt\(\)",
            "the guest read 0 there, and wrote 'p'",
            "the host still sees b's'",
        ),
        missing=private_in_vm,
    ),
    "dirty_logging": Example(
        (
            "to begin with: IoOut.*",
            r"two pages written: IoOut\(.*\)( 0x[2348])* 0x101 0x107",
            r"one more: Hlt\(\)( 0x[2348])* 0x108",
        ),
        hosts=("kvm",),
    ),
    "pre_fault": Example(
        (r"the guest runs once: Hlt\(\)", "64 pages of 64 are mapped that it has not touched"),
        hosts=("kvm",),
        missing=pre_fault,
    ),
    "userfault_by_hand": Example(
        (
            "page 0x101 is missing",
            "page 0x100 is missing",
            r"Hlt\(\)",
            "the guest has read 0x101 and 0x100",
        ),
        missing=userfault,
    ),
    "ioeventfd_device": Example(
        (
            r"exits of the vCPU: IoOut\(port=128.*\) Hlt\(\)",
            "the device was rung 3 times",
        )
    ),
    "measure_conversion": Example(
        (
            r" +4 KiB on \w+, .*: median [0-9.]+ us, worst [0-9.]+ us",
            r" +2048 KiB on \w+, .*: median [0-9.]+ us, worst [0-9.]+ us",
            "the shared page still has b'kept[?]'",
        ),
        missing=private,
    ),
    "unknown_exit": Example(
        (
            r"UnknownExit\(reason=12\) is KVM_EXIT_TPR_ACCESS",
            "a read, before 0x[0-9a-f]+ in the code",
        ),
        hosts=("kvm",),
    ),
    "new_ioctl": Example(
        (
            r"<ioctl KVM_GET_CLOCK 0x8030ae7c struct kvm_clock_data>: \d+ ns",
            r"cannot issue KVM_SET_MEMORY_ATTRIBUTES2.*: ENOTTY .*|the page at 0x1000 is private",
        ),
        hosts=("kvm",),
        missing=mapped_file,
    ),
}
CASES = [
    pytest.param(name, host, marks=[pytest.mark.kvm] if host == "kvm" else [])
    for name, example in EXAMPLES.items()
    for host in example.hosts
]


@pytest.mark.parametrize(("name", "host"), CASES)
def test_an_example_shows_what_it_is_about(
    name: str, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = EXAMPLES[name]
    reason = example.missing(host)
    if reason:
        pytest.skip(reason)
    path = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), host])
    runpy.run_path(str(path), run_name="__main__")
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) == len(example.lines), out
    for line, expected in zip(out.splitlines(), example.lines, strict=True):
        assert re.fullmatch(expected, line), (line, expected)


def run_one(name: str, host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an example that ends with an exit code: that, as `SystemExit` has it."""
    monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", host])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return str(ended.value.code)


@pytest.mark.parametrize("name", EXAMPLES)
def test_where_the_host_refuses_it_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NoPermissionError("open /dev/kvm", "this user may not", "join its group")

    monkeypatch.setattr(KvmSystem, "__init__", refuse)
    assert run_one(name, "kvm", monkeypatch) == "77"
    said = f"{name}.py: cannot open /dev/kvm: this user may not; join its group\n"
    assert capsys.readouterr() == ("", said)


def test_a_guest_that_fails_ends_the_thread_that_brings_its_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := userfault("model"):
        pytest.skip(reason)

    def interrupted(_guest: Guest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Guest, "run", interrupted)
    before = threading.active_count()
    assert run_one("userfault_by_hand", "model", monkeypatch) == "130"
    assert threading.active_count() == before
    assert capsys.readouterr() == ("", "userfault_by_hand.py: interrupted\n")


def test_a_page_that_cannot_be_brought_leaves_no_guest_waiting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := userfault("model"):
        pytest.skip(reason)

    def refuse(_of: object) -> int:
        raise SystemCallError("find a page", 12, "ENOMEM")

    monkeypatch.setattr("pyvmm.experiment.address_of", refuse, raising=False)
    assert run_one("userfault_by_hand", "model", monkeypatch) == "71"
    out, err = capsys.readouterr()
    assert out.splitlines() == ["page 0x101 is missing", "Hlt()"]
    assert err == "userfault_by_hand.py: cannot find a page: ENOMEM\n"


def test_there_are_ten_of_a_page_each_all_tested_and_all_listed() -> None:
    found = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert found.keys() == EXAMPLES.keys()
    assert len(found) == 10
    page = (FOLDER.parent / "docs" / "shell.md").read_text(encoding="utf-8")
    for name, text in found.items():
        assert text.count("\n") <= LINES, name
        assert f"python examples/{name}.py" in text
        assert f"../examples/{name}.py)" in page
