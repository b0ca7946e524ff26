# SPDX-License-Identifier: MIT
"""``--share`` and ``--port``: what may be said, and what a guest then has."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.cli.share_option import parse_port, parse_share
from pyvmm.errors import ExitCode
from pyvmm.machine.hardware import PortChoice, Share


def test_what_may_be_said() -> None:
    assert parse_share("src=.") == Share("src", Path(), read_only=True)
    assert parse_share("a=b=c,,d,readonly=off") == Share("a", Path("b=c,d"), read_only=False)
    assert parse_port("log=/run/l") == PortChoice("log", Path("/run/l"))


@pytest.mark.parametrize("text", ["", "src", "src=", "=.", "x" * 32 + "=.", "s=.,ro=on"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_share(text)


@pytest.mark.parametrize("text", ["", "p", "p=", "=s", "a/b=s", "x" * 128 + "=s", "p=s,server=on"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_port(text)
    with pytest.raises(argparse.ArgumentTypeError, match="'b' cannot be: a comma of a path is dou"):
        parse_port("p=a,b")


def test_a_folder_from_the_command_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "hello").write_text("from the host\n")
    command = ["run", "share", "--host", "model"]
    assert main([*command, "--share", f"src={tmp_path},readonly=off"]) == 0
    assert capfdbinary.readouterr().out.count(b"from the host\n") == 2
    assert (tmp_path / "written").read_bytes() == b"by the guest\n"
    assert main([*command, "--share", f"src={tmp_path}/absent"]) == ExitCode.NO_INPUT
    assert main([*command, "--share", f"src={tmp_path}/hello"]) == ExitCode.NO_INPUT
    assert main([*command, "--share", "src"]) == ExitCode.USAGE
    errors = capfdbinary.readouterr().err.decode().splitlines()
    assert len(errors) == 3
    assert "there is none" in errors[0]
    assert "no folder" in errors[1]
