# SPDX-License-Identifier: MIT
"""``--vsock``: what may be said, and what cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.cli.vsock_option import parse_vsock
from pyvmm.errors import ExitCode
from pyvmm.machine.hardware import Vsock


def test_what_may_be_said() -> None:
    assert parse_vsock("cid=3,path=/run/v") == Vsock(3, Path("/run/v"))
    assert parse_vsock("path=a,,b,cid=4294967294") == Vsock(0xFFFF_FFFE, Path("a,b"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it may be cid=, path="),
        ("cid=3", "no path="),
        ("path=v", "no cid="),
        ("cid=3,path=", "no path="),
        ("cid=3,path=v,port=1", "it may be cid=, path="),
        ("cid=2,path=v", "cid=2 cannot be: it is 3 to 4294967294"),
        ("cid=4294967295,path=v", "cannot be"),
        ("cid=x,path=v", "no whole number"),
        ("cid=-3,path=v", "cannot be"),
    ],
)
def test_what_cannot_be(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        parse_vsock(text)


def test_refusals_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    command = ["run", "vsock", "--host", "model", "--vsock"]
    assert main([*command, "cid=1,path=x"]) == ExitCode.USAGE
    assert main([*command, f"cid=3,path={tmp_path}/file"]) == ExitCode.USAGE
    assert main([*command, f"cid=3,path={tmp_path}/{'x' * 100}"]) == ExitCode.USAGE
    assert main([*command, f"cid=3,path={tmp_path}/absent/v"]) != 0
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 4
    assert "a file of that name exists" in errors[1]
    assert "the path is too long" in errors[2]
    assert "No such file" in errors[3]
