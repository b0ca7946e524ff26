# SPDX-License-Identifier: MIT
"""Where the console and QMP go, in QEMU's spelling."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli import lab
from pyvmm.cli.console_option import ConsoleKind, ConsoleOption, parse_console
from pyvmm.cli.main import main
from pyvmm.cli.qmp_option import QmpOption, parse_qmp
from pyvmm.lab.settings import LabWishes


def unix(path: str) -> ConsoleOption:
    return ConsoleOption(ConsoleKind.UNIX, Path(path))


def file(path: str, append: bool = False) -> ConsoleOption:
    return ConsoleOption(ConsoleKind.FILE, Path(path), append)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("stdio", ConsoleOption(ConsoleKind.STDIO)),
        ("none", ConsoleOption(ConsoleKind.NONE)),
        ("unix:y", unix("y")),
        ("unix:y,server=on,wait=off", unix("y")),
        ("unix:y,server,nowait", unix("y")),
        ("unix:z,,q", unix("z,q")),
        ("unix:z,,,server=on", unix("z,")),
        ("unix:,,,,", unix(",,")),
        ("unix:@y:1", unix("@y:1")),
        ("file:f", file("f")),
        ("file:f,append=on", file("f", append=True)),
        ("file:f,append=on,append=off", file("f")),
        ("file:a=b,,append=on", file("a=b,append=on")),
        ("file:stdio", file("stdio")),
    ],
)
def test_places_of_the_console(text: str, place: ConsoleOption) -> None:
    assert parse_console(text) == place


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--console", "unix:y,wait=on", "'wait=on' cannot be: it may be server=on, wait=off"),
        ("--console", "unix:y,server=off", "listens there and connects to nothing"),
        ("--console", "unix:y,reconnect=1", "listens there and connects to nothing"),
        ("--console", "unix:y,abstract=on", "a socket is a file here"),
        ("--console", "unix:y,append=on", "'append=on' cannot be"),
        ("--console", "unix:z,q", "'q' cannot be: it may be server=on, wait=off; a comma of the"),
        ("--console", "unix:z,", "'' cannot be"),
        ("--console", "unix:z,server=yes", "listens there"),
        ("--console", "unix:", "'unix:' is none of stdio, none, file:PATH[,append=on], unix:PATH"),
        ("--console", "unix:,server=on", "is none of"),
        ("--console", "file:", "is none of"),
        ("--console", "file:f,append=maybe", "it may be append=on, append=off; a comma of"),
        ("--console", "file:f,server=on", "listens there"),
        ("--console", "stdio,signal=off", "is none of"),
        ("--console", "tcp:localhost:4444", "is none of"),
        ("--console", "", "is none of"),
        ("--qmp", "unix:y,server=off", "listens there and connects to nothing"),
        ("--qmp", "unix:y,wait=on,abstract", "a socket is a file here"),
        ("--qmp", "unix:y,x,,y", "'x,,y' cannot be"),
        ("--qmp", "tcp:localhost:4444", "is none of unix:PATH, unix:PATH,wait=on"),
    ],
)
def test_what_is_no_place(
    option: str,
    text: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "exit", option, text]) == 64
    err = capfd.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_qmp_in_short() -> None:
    assert parse_qmp("unix:y,server,nowait") == QmpOption(Path("y"))
    assert parse_qmp("unix:y,server,wait") == QmpOption(Path("y"), wait=True)


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_any_path_can_be_said(path: str) -> None:
    said = path.replace(",", ",,")
    assert parse_console(f"file:{said}").path == Path(path)
    assert parse_qmp(f"unix:{said},wait=on") == QmpOption(Path(path), wait=True)


@given(st.text(st.sampled_from(",=ab on"), max_size=20))
def test_whatever_is_said_is_a_place_or_a_usage_error(text: str) -> None:
    try:
        place = parse_console(f"unix:{text}")
    except argparse.ArgumentTypeError:
        return
    assert place.path is not None


@pytest.mark.kvm
def test_a_file_that_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "a,b"
    path.write_text("before\n")
    for _ in range(2):
        assert main(["run", "hello", "--console", f"file:{tmp_path}/a,,b,append=on"]) == 0
    text = path.read_text()
    assert text.startswith("before\nHello")
    assert text.count("Hello") == 2
    assert main(["run", "hello", "--console", f"file:{tmp_path}/a,,b"]) == 0
    assert path.read_text().count("Hello") == 1


@pytest.mark.parametrize(
    "option",
    [
        ("--console", "unix:/tmp/nowhere"),
        ("--qmp", "unix:/tmp/nowhere"),
        ("--gdb", "0"),
        ("--port", "a=/tmp/nowhere"),
        ("--vsock", "cid=3,path=/tmp/nowhere"),
    ],
)
def test_sockets_in_the_lab_are_refused(
    option: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "hello", "--host", "lab", *option]) == 64
    assert "a socket in there cannot be reached from out here" in capfd.readouterr().err


def test_what_a_guest_may_write_to_is_writable_in_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[LabWishes] = []

    def run_in_lab(wished: LabWishes, _: list[str]) -> int:
        wishes.append(wished)
        return 0

    monkeypatch.setattr(lab, "run_in_lab", run_in_lab)
    for name in ("read", "written", "disks"):
        (tmp_path / name).mkdir()
    options = ["--share", f"a={tmp_path}/read", "--share", f"b={tmp_path}/written,readonly=off"]
    disks = ["--disk", f"{tmp_path}/disks/d", "--disk", f"{tmp_path}/e,readonly=on"]
    assert main(["run", "hello", "--host", "lab", *options, *disks]) == 0
    (wished,) = wishes
    assert sorted(wished.writable) == [f"{tmp_path}/disks", f"{tmp_path}/written"]
