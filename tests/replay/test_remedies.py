# SPDX-License-Identifier: MIT
"""The design of a KVM, found by asking; and its remedies, as parameters of the module."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, InternalError, NoPermissionError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.unowned_files import create_unowned
from pyvmm.lifetime.adapting import design_named
from pyvmm.lifetime.designs import file_pins_vm
from pyvmm.replay import attack, remedies
from pyvmm.replay.attack import Attack, attempt
from pyvmm.replay.guest import Access, Guest
from pyvmm.replay.plan import Comparison
from pyvmm.rules.abi import PAGE_SIZE

ALL = frozenset(remedies.PARAMETERS)


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    """A folder as in sysfs, with all of them off, and one of something else."""
    for name in (*remedies.PARAMETERS.values(), "nx_huge_pages"):
        (tmp_path / name).write_text("N\n")
    return tmp_path


def said(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_remedies_are_on_for_a_while_and_alone(parameters: Path) -> None:
    (parameters / "gmem_judge_flags").write_text("Y\n")
    before = said(parameters)
    wanted = frozenset(["zero-at-unbinding", "owner-in-inode"])
    with pytest.raises(ZeroDivisionError), remedies.only(wanted, parameters):
        assert remedies.remedies_on(parameters) == wanted
        assert said(parameters)["nx_huge_pages"] == "N"
        raise ZeroDivisionError
    assert said(parameters) == before
    assert remedies.remedies_on(parameters) == {"judged-flags"}


def test_a_remedy_that_a_kernel_lacks_changes_nothing(parameters: Path) -> None:
    (parameters / "gmem_never_rebind").unlink()
    before = said(parameters)
    wanted = frozenset(["never-rebind", "judged-flags"])
    with (
        pytest.raises(HostLacksError, match="gmem_never_rebind"),
        remedies.only(wanted, parameters),
    ):
        pass
    assert said(parameters) == before
    assert remedies.remedies_there(parameters) == tuple(
        name for name in remedies.PARAMETERS if name != "never-rebind"
    )


def test_who_may_not_change_a_parameter_is_told(
    parameters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.open", refuse)
    with (
        pytest.raises(NoPermissionError, match="run it as root"),
        remedies.only(ALL, parameters),
    ):
        pass


def test_a_parameter_that_cannot_be_put_back_keeps_no_other_from_it(
    parameters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = parameters / remedies.PARAMETERS["owner-in-inode"]
    real = os.open

    def read_only(path: Path, flags: int, *more: int) -> int:
        if path == stuck and is_over:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *more)

    is_over = False
    monkeypatch.setattr("os.open", read_only)
    with (
        pytest.raises(SystemCallError, match=f"set {stuck}: Read-only file system") as refused,
        remedies.only(ALL, parameters),
    ):
        is_over = True
    assert refused.value.errno == errno.EROFS
    assert remedies.remedies_on(parameters) == {"owner-in-inode"}


def test_a_design_has_the_remedies_that_are_on(
    parameters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remedies, "has_unowned_files", lambda _: True)
    system = object.__new__(System)
    assert remedies.design_of(system, parameters) == design_named("memslot-pins-file")
    assert remedies.design_of(system, parameters / "none") == design_named("memslot-pins-file")
    with remedies.only(frozenset(["owner-in-inode", "judged-flags"]), parameters):
        found = remedies.design_of(system, parameters)
    assert found.name == "memslot-pins-file + owner-in-inode + judged-flags"
    assert found == design_named(found.name)


@pytest.mark.kvm
def test_this_kernels_files_have_a_vm_from_the_start(system: System) -> None:
    with pytest.raises(KvmError) as caught:
        create_unowned(system, PAGE_SIZE, GuestMemfdFlag(0))
    assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
    assert "KVM_CREATE_GUEST_MEMFD" in str(caught.value)
    assert remedies.design_of(system) == file_pins_vm()
    with Comparison(system, lambda *_: None) as comparison:
        assert comparison.design.name == "file-pins-vm"


@pytest.mark.kvm
def test_linux_lets_no_other_vm_bind(system: System) -> None:
    made = attempt(system, Attack.REBINDING, most_vms=3)
    assert not made.reached
    assert made.read is None
    assert made.steps[-1] == ("another VM binds the file, the last of 3 that try", "EINVAL")
    assert ("a guest_memfd is created for the first VM", "ok") in made.steps
    assert made.verdict.endswith("EINVAL")


@pytest.mark.kvm
def test_a_secret_that_cannot_be_written_is_no_attack_that_was_stopped(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guest, "write", lambda *_: Access(None, errno.EFAULT))
    with pytest.raises(InternalError, match="write a secret at GPA 0x0: it cannot: EFAULT"):
        attempt(system, Attack.REBINDING)


@pytest.mark.kvm
def test_a_read_that_fails_is_told_as_that_and_not_as_zeroes(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is bound here: what the guest gets is EFAULT."""
    monkeypatch.setattr(Guest, "read", lambda *_: Access(None, errno.EFAULT))
    monkeypatch.setattr(attack, "_bind", lambda *_: None)
    monkeypatch.setattr(attack, "_write", lambda *_: None)
    made = attempt(system, Attack.REBINDING)
    assert made.read is None
    assert made.verdict == "stopped: its guest reads: EFAULT"
