# SPDX-License-Identifier: MIT
"""Initial RAM disks of several parts, as options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.guest_options import add_guest_arguments, guest_inputs, read_guest
from pyvmm.errors import ImageError
from tests.boot.linux_images import bzimage


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("image").write_bytes(bzimage())
    Path("early").write_bytes(b"early")
    Path("main").write_bytes(b"main part")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_guest_arguments(parser)
    return parser.parse_args(["image", *arguments])


def test_each_part_begins_at_a_multiple_of_four() -> None:
    guest = read_guest(options("--initrd", "early", "--initrd", "main"))
    assert guest.initrd == b"early\0\0\0main part\0\0\0"
    assert guest.initrd_name == "early main"


def test_one_part_is_passed_on_as_it_is() -> None:
    assert read_guest(options("--initrd", "main")).initrd == b"main part"
    assert read_guest(options()).initrd is None


def test_all_parts_are_inputs() -> None:
    given = options("--initrd", "early", "--initrd", "main")
    assert [str(one.place) for one in guest_inputs(given)] == ["image", "early", "main"]


def test_all_parts_together_are_no_larger_than_memory() -> None:
    for name in ("early", "main"):
        with Path(name).open("wb") as file:
            file.truncate(3 << 19)
    with pytest.raises(
        ImageError, match="main: it is larger than what the parts before it leave of the guest's"
    ):
        read_guest(options("-m", "2M", "--initrd", "early", "--initrd", "main"))
