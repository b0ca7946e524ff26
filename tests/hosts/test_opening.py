# SPDX-License-Identifier: MIT
"""Opening the device: each way in which it can fail says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError
from pyvmm.hosts.kvm.system import System


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(HostLacksError, match="does not exist") as caught:
        System(str(tmp_path / "kvm"))
    assert "load the kvm module" in caught.value.remedy


def test_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NoPermissionError, match="group"):
        System()


def test_not_a_kvm_device(tmp_path: Path) -> None:
    plain = tmp_path / "kvm"
    plain.touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostLacksError, match="it is no KVM") as caught:
        System(str(plain))
    assert "load the kvm module" in caught.value.remedy
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENXIO])
def test_a_device_file_without_a_driver(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostLacksError, match="there is no KVM behind it"):
        System()


def test_anything_else(tmp_path: Path) -> None:
    with pytest.raises(SystemCallError) as caught:
        System(str(tmp_path))
    assert caught.value.errno == errno.EISDIR
