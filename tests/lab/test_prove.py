# SPDX-License-Identifier: MIT
"""A kernel of the user's proves what it offers, or is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.lab import prove
from pyvmm.lab.settings import find_kernel


@pytest.mark.lab
@pytest.mark.slow
def test_the_labs_own_kernel_proves_private_memory() -> None:
    answers = prove.prove(find_kernel(None))
    assert answers["vm_types"] == 3
    assert answers["memory_attributes"] == 8
    assert answers["guest_memfd"] == 1
    assert answers["sw_protected_vm"] == 1
    assert answers["file_attributes"] == 0


def answering(monkeypatch: pytest.MonkeyPatch, status: int, out: object, err: str = "") -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, status, json.dumps(out).encode(), err.encode())

    monkeypatch.setattr(subprocess, "run", run)


def test_a_kernel_without_private_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"sw_protected_vm": 0, "memory_attributes": 0, "file_attributes": 0}
    answering(monkeypatch, 0, answers)
    with pytest.raises(HostLacksError, match="no private memory"):
        prove.prove(Path("bzImage"))


def test_attributes_of_files_are_private_memory_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"sw_protected_vm": 1, "memory_attributes": 0, "file_attributes": 8}
    answering(monkeypatch, 0, answers)
    assert prove.prove(Path("vmlinux")) == answers


def test_a_kernel_that_does_not_come_up_is_refused_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering(monkeypatch, 71, None, "noise\npyvmm: cannot start the lab: its kernel panicked\n")
    with pytest.raises(HostLacksError, match="cannot start the lab: its kernel panicked"):
        prove.prove(Path("bzImage"))


def test_a_kernel_that_says_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_options: object) -> None:
        raise subprocess.TimeoutExpired(command, 180)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(HostLacksError, match="said nothing"):
        prove.prove(Path("bzImage"))
