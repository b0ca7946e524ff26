# SPDX-License-Identifier: MIT
"""Flags without a name reach the kernel, or the model's rules, as they were given."""

from __future__ import annotations

import pytest

from pyvmm.cli.main import main
from pyvmm.hosts.kvm.system import System

each_host = pytest.mark.parametrize("host", [pytest.param("kvm", marks=pytest.mark.kvm), "model"])


def said(options: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["run", "hello", "-m", "16M", *options])
    return code, capfd.readouterr().err


@each_host
def test_a_flag_of_memslots_that_there_is_none_of_is_refused(
    host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = said(["--host", host, "--memslot-flags", "0x80000000"], capfd)
    assert code == 71
    assert line.count("\n") == 1
    assert "EINVAL" in line


@each_host
def test_a_flag_of_files_that_there_is_none_of_is_refused(
    host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = said(["--host", host, "--guest-memfd-flags", "0x8000000000000000"], capfd)
    assert line.count("\n") == 1
    if host == "kvm" and not _ram_is_a_guest_memfd():
        assert (code, "no guest_memfd on this host" in line) == (69, True)
    else:
        assert (code, "0x800000000000000" in line) == (71, True)


def _ram_is_a_guest_memfd() -> bool:
    from pyvmm.memory.backing import RamBacking, choose_backing

    with System() as system:
        return choose_backing(system.capabilities()).kind is RamBacking.GUEST_MEMFD


@each_host
def test_flags_that_are_there_anyway_change_nothing(
    host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if host == "kvm" and not _ram_is_a_guest_memfd():
        pytest.skip("RAM is no guest_memfd on this host: it has no flags")
    assert said(["--host", host, "--guest-memfd-flags", "3"], capfd) == (0, "")


@pytest.mark.parametrize(
    ("option", "value", "bits"),
    [
        ("--memslot-flags", "0x100000000", 32),
        ("--memslot-flags", "READONLY", 32),
        ("--guest-memfd-flags", "-1", 64),
        ("--guest-memfd-flags", "", 64),
    ],
)
def test_what_is_no_mask_is_refused(
    option: str, value: str, bits: int, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = said([f"{option}={value}"], capfd)
    assert code == 64
    assert f"no number of {bits} bits" in line
