# SPDX-License-Identifier: MIT
"""``pyvmm measure``: one line that a script can use, the same for the same guest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.boot.launch import launch_image, measure
from pyvmm.boot.loader import plan_boot
from pyvmm.cli.main import main
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import MIB

from ..boot.images import ENTRY, Segment, elf, private_note, pvh, pvh_note
from .command import pyvmm

IMAGE = elf([Segment(ENTRY, b"\xf4" * 5000)], pvh_note() + private_note(ENTRY))


def digest(memory: int = 256 * MIB, append: bytes = b"", initrd: bytes | None = None) -> str:
    address_map = AddressMap.of(memory, window=0)
    plan = plan_boot(IMAGE, address_map, append, initrd)
    return measure(launch_image(plan, address_map)).hex()


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("image").write_bytes(IMAGE)
    Path("initrd").write_bytes(b"files")
    return "image"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["measure", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_line_with_the_digest(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, image) == digest() + "\n"


def test_all_that_is_loaded_counts(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    seen = {
        answer(capsys, image, *options).strip(): expected
        for options, expected in (
            ((), digest()),
            (("-m", "64M"), digest(64 * MIB)),
            (("--append", "words"), digest(append=b"words")),
            (("--initrd", "initrd"), digest(initrd=b"files")),
        )
    }
    assert list(seen) == list(seen.values())
    assert len(seen) == 4


def test_json_says_what_was_measured(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(answer(capsys, image, "--json")) == {
        "digest": digest(),
        "algorithm": "sha384",
        "pages": 6,
        "entry": ENTRY,
        "start_info": 0x6000,
        "runs": [
            {"gpa": 0, "size": 4096},
            {"gpa": 0x6000, "size": 8192},
            {"gpa": 0x20000, "size": 4096},
            {"gpa": ENTRY, "size": 8192},
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("missing",), 66, "missing: no such file"),
        (("",), 66, "its name is empty"),
        (("no-entry",), 65, "launch no-entry into private memory: it has no entry for that"),
        (("image", "-m", "1M"), 64, "less than the minimum, 2 MiB"),
        (("image", "-m", "2M", "--initrd", "image"), 65, "the initrd"),
        (("image", "--append", "\0"), 64, "it has a zero byte in it"),
        (("image", "--cpus", "2"), 64, "unrecognized arguments: --cpus"),
        ((), 64, "the following arguments are required: IMAGE"),
    ],
)
def test_errors_are_those_of_run(
    image: str,
    arguments: tuple[str, ...],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("no-entry").write_bytes(pvh())
    Path("image").write_bytes(IMAGE)
    if "--initrd" in arguments:
        Path("image").write_bytes(IMAGE.ljust(2 * MIB - 4096, b"\0"))
    assert main(["measure", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.slow
def test_as_a_process_with_a_bundled_guest() -> None:
    first, second = pyvmm("measure", "hello"), pyvmm("measure", "hello.img")
    assert (first.code, first.err, len(first.out)) == (0, "", 97)
    assert first.out == second.out


@pytest.mark.slow
def test_an_answer_that_cannot_be_written() -> None:
    done = pyvmm("measure", "hello", prefix=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert (done.code, done.lines) == (
        71,
        ["pyvmm: cannot write to standard output: No space left on device"],
    )
