# SPDX-License-Identifier: MIT
"""``--device``: QEMU's test devices by name, and everything that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.device_option import device_choice
from pyvmm.cli.main import main
from pyvmm.errors import UsageError
from pyvmm.machine.device_choice import DeviceChoice, ExitPortPlace

from . import flat

EXIT_AT_0X777 = bytes.fromhex("ba7707 b005 ee f4")
"""mov dx, 0x777; mov al, 5; out dx, al; hlt"""
EXIT_AT_0X501 = bytes.fromhex("ba0105 b005 ee f4")
TO_0XE9_AND_BACK = bytes.fromhex("b041 e6e9 e4e1 e6f4 f4")
"""mov al, 'A'; out 0xe9, al; in al, 0xe1; out 0xf4, al; hlt: the test device's second byte"""


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], DeviceChoice()),
        (["pvpanic"], DeviceChoice()),
        (["pc-testdev"], DeviceChoice(whole_test_device=True)),
        (["isa-debug-exit"], DeviceChoice((ExitPortPlace(0x501, 2),))),
        (
            ["pc-testdev", "isa-debug-exit,iobase=0xf4,iosize=0x4"],
            DeviceChoice((ExitPortPlace(0xF4, 4),), whole_test_device=True),
        ),
        (["isa-debug-exit,iosize=1,iobase=500"], DeviceChoice((ExitPortPlace(500, 1),))),
    ],
)
def test_what_is_understood(asked: list[str], expected: DeviceChoice) -> None:
    assert device_choice(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        "", "virtio-net", "PC-TESTDEV", "pc-testdev,", "pc-testdev,x=1", "pvpanic,ioport=0x505",
        "isa-debug-exit,iobase", "isa-debug-exit,iobase=", "isa-debug-exit,iobase=0xg",
        "isa-debug-exit,iobase=-1", "isa-debug-exit,iobase=0x10000", "isa-debug-exit,iosize=0",
        "isa-debug-exit,iosize=5", "isa-debug-exit,iobase=0xffff,iosize=2",
        "isa-debug-exit,iobase=1,iobase=1", "isa-debug-exit,iobase=99999999999999999999999",
    ],
)  # fmt: skip
def test_what_is_not(asked: str) -> None:
    with pytest.raises(UsageError):
        device_choice([asked])


def run(tmp_path: Path, image: bytes, *arguments: str) -> int:
    path = tmp_path / "image"
    path.write_bytes(image)
    return main(["run", str(path), "--host", "model", "-m", "2M", *arguments])


def test_the_exit_port_is_where_qemu_has_it_too_and_where_it_is_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, EXIT_AT_0X501) == 5
    assert run(tmp_path, EXIT_AT_0X777, "--device", "isa-debug-exit,iobase=0x777,iosize=4") == 5
    assert run(tmp_path, flat.exiting(3), "--device", "isa-debug-exit,iobase=0xf4,iosize=4") == 3


def test_no_exit_port_is_put_onto_another_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, flat.HALT, "--device", "isa-debug-exit,iobase=0x70") == 64
    assert "overlaps CMOS clock at [0x70, 0x72)" in capsys.readouterr().err
    # Ports that the host's controllers answer, without an exit.
    arguments = ["--irqchip", "on", "--device", "isa-debug-exit,iobase=0x20"]
    assert run(tmp_path, flat.HALT, *arguments) == 64
    told = capsys.readouterr().err
    assert "put exit port at [0x20, 0x22)" in told
    assert "it overlaps pic at [0x20, 0x22)" in told
    assert told.count("\n") == 1


def test_port_0xe9_is_the_debug_console_unless_the_test_device_is_asked_for(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(tmp_path, TO_0XE9_AND_BACK) == 0
    assert capfdbinary.readouterr().out == b"A"
    assert run(tmp_path, TO_0XE9_AND_BACK, "--device", "pc-testdev") == 83  # 'A' is no status.
    assert capfdbinary.readouterr().out == b""


def test_help_lists_them_and_boots_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--device", "help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("pc-testdev", "isa-debug-exit", "pvpanic"))
    assert max(map(len, told.splitlines())) <= 90


@pytest.mark.parametrize("word", ["help", "?"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("isa-debug-exit", ("iobase=", "0x501", "iosize=", "default: 2")),
        ("isa-debug-exit,iobase=0xf4", ("iobase=", "0x501", "iosize=", "default: 2")),
        ("pc-testdev", ("There are no options for pc-testdev.",)),
        ("pvpanic", ("There are no options for pvpanic",)),
    ],
)
def test_help_lists_the_options_of_one(
    name: str, says: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--device", f"{name},{word}"]) == 0
    told = capsys.readouterr().out
    assert all(each in told for each in says), told
    assert max(map(len, told.splitlines())) <= 80


def test_no_help_is_there_for_an_unknown_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--device", "e1000,help"]) == 64
    assert "there is none called 'e1000'" in capsys.readouterr().err


def test_an_unknown_device_is_a_line_and_64(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--device", "e1000"]) == 64
    assert capsys.readouterr().err.splitlines() == [
        "pyvmm: cannot add the device 'e1000': there is none called 'e1000'; see --device help"
    ]
