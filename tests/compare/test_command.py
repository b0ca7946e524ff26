# SPDX-License-Identifier: MIT
"""``pyvmm compare`` as its users run it: what it prints, how it ends, what goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.cli import compare
from pyvmm.cli.main import main
from tests.boot.images import ENTRY, Segment, elf, multiboot_header
from tests.cli.command import ENVIRONMENT, PYVMM, pyvmm
from tests.compare.fake_qemu import changed, fake
from tests.compare.samples import report
from tests.compare.test_writers import Page

ODD_NAMES = (b"image\xff\x1b", b"qemu\xfe", b"told\xfd", b"page\xfc")
LITTLE = ("--memory", "16M", "--host", "model", "--accel", "tcg")


@pytest.mark.qemu
@pytest.mark.slow
def test_a_comparison_as_text_json_and_page(tmp_path: Path) -> None:
    told, page = tmp_path / "told.json", tmp_path / "page.html"
    done = pyvmm(
        "compare", "inventory", *LITTLE, "--runs", "2", "--machine", "microvm,pc",
        "--json", told, "--html", page, "--append", "one two",
    )  # fmt: skip
    assert done.code == 0, done.err
    text = done.out.decode()
    assert text.splitlines()[-1] == "The behaviour agrees."
    assert "█" in text
    plain = json.loads(told.read_text())
    assert plain["agrees"] is True
    assert plain["guest"]["command_line"] == "one two"
    assert plain["guest"]["bundled"] == "inventory"
    names = [one["name"] for one in plain["subjects"]]
    assert names[0] == plain["reference"] == "pyvmm model"
    assert [name.split()[-2:] for name in names[1:]] == [["tcg", "microvm"], ["tcg", "pc"]]
    for one in plain["subjects"]:
        assert one["end"]["status"] == 0
        assert one["console"].endswith("command line: one two\n")
        assert len(one["runs"]) == 2
        assert re.fullmatch("[0-9a-f]{64}", one["ram_sha256"])
        assert {"start": 0, "end": 0x9FC00, "kind": "usable"} in one["memory_map"]
        assert one["cpuid"][0]["leaf"] == 0
        for run in one["runs"]:
            # Each by a clock reading of its own: on a busy machine the byte may be read late.
            assert min(run["first_console_byte_ms"], run["total_ms"]) > 0
            assert run["user_cpu_ms"] + run["system_cpu_ms"] > 1
            assert 15 < run["peak_rss_mib"] < 1000
    assert len(plain["ratios"]) == 2 * 5
    assert "circle" in Page(page.read_text()).tags


@pytest.mark.qemu
@pytest.mark.slow
def test_the_digest_is_that_of_the_guests_ram(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = pyvmm("compare", "exit", *LITTLE, "--runs", "0", "--append", "9", "--json", told)
    assert done.code == 0, done.err
    plain = json.loads(told.read_text())
    (verdict,) = plain["verdicts"]
    low, image, rest = verdict["ram"]
    assert (rest["start"], rest["end"]) == (0x20_0000, 0x100_0000)
    # Nobody touched what is above the image, so both are the digest of zeroes.
    zeroes = hashlib.sha256(bytes(rest["end"] - rest["start"])).hexdigest()
    assert rest["reference_sha256"] == rest["other_sha256"] == zeroes
    assert rest["pages"]["same"] == 3584
    assert low["reference_sha256"] != low["other_sha256"]
    # Its code is the same, its stack is not.
    assert image["pages"]["same"] > 240
    assert all(one["end"] == {"kind": "exited", "status": 9, "detail": one["end"]["detail"]}
               for one in plain["subjects"])  # fmt: skip


@pytest.mark.qemu
@pytest.mark.slow
def test_a_qemu_that_behaves_otherwise_is_a_disagreement(tmp_path: Path) -> None:
    # Another command line reaches the guest, so it ends and speaks otherwise.
    program = changed(tmp_path, 'set -- "${@/#7/8}"')
    done = pyvmm("compare", "exit", *LITTLE, "--runs", "0", "--append", "7", "--qemu", program)
    assert done.code == 1, done.err
    assert done.out.decode().splitlines()[-1] == "The behaviour does not agree."
    assert "end: exited 7 and exited 8" in done.out.decode()


@pytest.mark.qemu
@pytest.mark.slow
def test_a_reset_by_a_port_that_microvm_has_not(tmp_path: Path) -> None:
    # By the keyboard controller, which takes QEMU a moment; where it does nothing the guest ends
    # with 4.
    code = bytes.fromhex("b0fe e664 b980000000 e461 e2fc b004 e6f4 f4")
    image, page, told = (tmp_path / name for name in ("image", "page", "told"))
    image.write_bytes(elf((Segment(ENTRY, code),), bits=32, multiboot=multiboot_header()))
    options = (*LITTLE, "--machine", "microvm,pc", "--runs", "1", "--html", page, "--json", told)
    done = pyvmm("compare", image, *options)
    assert done.code == 0, done.err
    sentence = "the guest uses the keyboard controller (port 0x64), which pyvmm has and QEMU"
    assert sentence in done.out.decode()
    assert sentence in page.read_text()
    ends = [one["end"]["kind"] for one in json.loads(told.read_text())["subjects"]]
    assert ends == ["restarted", "exited", "restarted"]
    assert "restarted and exited 4 (device)" in done.out.decode()


@pytest.mark.qemu
@pytest.mark.slow
def test_two_qemus_are_told_apart(tmp_path: Path) -> None:
    program = changed(tmp_path, "")
    done = pyvmm(
        "compare", "exit", *LITTLE, "--runs", "0",
        "--qemu", program, "--qemu", "qemu-system-x86_64",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert f"({program})" in done.out.decode()
    assert "(qemu-system-x86_64)" in done.out.decode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo it broke >&2; exit 3", "it ended with exit code 3, saying: it broke"),
        ("kill -9 $$", "killed by SIGKILL"),
        ('eval "echo rubbish >&$fd"; exec sleep 60', "does not speak QMP"),
        ("kill -6 $$", "killed by SIGABRT"),
    ],
)
@pytest.mark.slow
def test_a_program_that_is_no_qemu(tmp_path: Path, body: str, message: str) -> None:
    program = fake(tmp_path, body)
    done = pyvmm("compare", "exit", *LITTLE, "--runs", "0", "--qemu", program)
    assert done.code == 71
    assert done.out == b""
    (line,) = done.lines
    assert message in line
    assert program in line


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("option", ["-S", "iosize=1$"], ids=["inspected", "timed"])
def test_a_qemu_that_dies_while_the_guest_is_to_run(tmp_path: Path, option: str) -> None:
    # It answers when it is probed.
    body = f"""
        if [[ "$*" == *-kernel* && "$*" =~ {option} ]]; then
            echo qemu: out of luck >&2; exit 1
        fi
    """
    program = changed(tmp_path, body)
    done = pyvmm("compare", "exit", *LITTLE, "--runs", "1", "--qemu", program)
    assert done.code == 71
    line = done.lines[-1]
    assert "out of luck" in line


HANGS_WHEN_TIMED = """
    if [[ "$*" == *-kernel* && "$*" != *" -S"* ]]; then exec sleep 600; fi
"""


@pytest.mark.qemu
@pytest.mark.slow
def test_a_qemu_that_hangs_in_a_timed_run(tmp_path: Path) -> None:
    program = changed(tmp_path, HANGS_WHEN_TIMED)
    options = (*LITTLE, "--runs", "1", "--qemu", program, "--timeout", "8")
    done = pyvmm("compare", "exit", *options)
    assert done.code == 71
    assert "round 1 was not over after 8 s" in done.lines[-1]


@pytest.mark.slow
def test_a_qemu_that_is_not_there() -> None:
    done = pyvmm("compare", "exit", *LITTLE, "--qemu", "/nowhere/qemu")
    assert done.code == 69
    (line,) = done.lines
    assert "/nowhere/qemu" in line
    assert "not installed" in line


@pytest.mark.qemu
def test_an_accelerator_that_was_asked_for_and_does_not_work(tmp_path: Path) -> None:
    program = changed(tmp_path, '[[ "$*" == *"-accel kvm"* ]] && { echo no KVM >&2; exit 1; }')
    options = ("--host", "model", "--runs", "0", "-m", "16M", "--qemu", program)
    done = pyvmm("compare", "exit", *options, "--accel", "kvm")
    assert done.code == 69
    (line,) = done.lines
    assert "no KVM" in line


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("no-such-image",), 66),
        (("/dev/null",), 66),
        (("exit", "--runs", "-1"), 64),
        (("exit", "--runs", "1001"), 64),
        (("exit", "--accel", "hvf"), 64),
        (("exit", "--accel", ""), 64),
        (("exit", "--machine", "q35,pc"), 64),
        (("exit", "--host", "lab"), 64),
        (("exit", "--timeout", "0"), 64),
        (("exit", "--memory", "1M"), 64),
        (("exit", "--memory", "2052K"), 64),
        (("exit", "--cpus", "0"), 64),
        (("exit", "--qemu", ""), 64),
        (("exit", "--input", "/nowhere"), 66),
        (("exit", "--json", "/nowhere/file"), 64),
        (("exit", "--html", "/"), 64),
        ((), 64),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_said_in_one_line(
    options: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "code", "message"),
    [
        # QEMU's -kernel boots no boot sectors.
        (bytes.fromhex("b02a e6f4 f4"), 64, "flat image"),
        (b"\x7fELF" + bytes(10), 65, "ELF"),
    ],
)
def test_images_that_cannot_be_compared(
    image: bytes, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(image)
    assert main(["compare", str(path)]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("overwritten", ["image", "link", "initrd", "typed", "qemu"])
def test_what_is_read_is_not_overwritten(
    option: str, overwritten: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = bundled_guests.find("exit")
    assert guest is not None
    contents = dict.fromkeys(("initrd", "typed", "qemu"), b"precious")
    contents["image"] = guest.path.read_bytes()
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    paths["qemu"].chmod(0o755)
    paths["link"] = tmp_path / "link"
    paths["link"].hardlink_to(paths["image"])
    given = ("--initrd", paths["initrd"], "--input", paths["typed"], "--qemu", paths["qemu"])
    line = ["compare", paths["image"], *given, option, paths[overwritten]]
    assert main([str(part) for part in line]) == 64
    assert "it is the " in capsys.readouterr().err
    assert {name: paths[name].read_bytes() for name in contents} == contents


@pytest.mark.qemu
@pytest.mark.slow
def test_names_that_are_no_utf8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # Room for the longest of paths.
    guest = bundled_guests.find("exit")
    assert guest is not None
    program = Path(changed(tmp_path, ""))
    odd = [Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in ODD_NAMES]
    image, qemu, told, page = odd
    image.write_bytes(guest.path.read_bytes())
    program.rename(qemu)
    line = ["compare", image, *LITTLE, "--runs", "0", "--json", told, "--html", page]
    line += ["--qemu", qemu, "--qemu", "qemu-system-x86_64"]
    assert main([str(part) for part in line]) == 0
    text = capsys.readouterr().out
    assert "/image\\xff\\x1b: 16 MiB" in text
    assert "/qemu\\xfe)" in text
    # Strict: what is no UTF-8 in there would not be read.
    plain = json.loads(told.read_bytes().decode())
    assert plain["guest"]["name"].endswith("/image\\xff\\x1b")
    assert plain["subjects"][1]["program"].endswith("/qemu\\xfe")
    assert "/image\\xff\\x1b: pyvmm and QEMU" in page.read_bytes().decode()


@pytest.mark.parametrize("full", ["--json", "--html"])
def test_a_file_without_room_takes_nothing_else_with_it(
    full: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compare, "compared", lambda *_: report())
    (other,) = {"--json", "--html"} - {full}
    file = tmp_path / "file"
    assert main(["compare", "exit", full, "/dev/full", other, str(file)]) == 71
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "The behaviour agrees."
    assert err == "pyvmm: cannot write the comparison to /dev/full: No space left on device\n"
    assert "pyvmm kvm" in file.read_text()


def test_both_files_cannot_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    assert main(["compare", "exit", "--json", str(file), "--html", str(file)]) == 64
    said = capsys.readouterr().err
    assert f"cannot write the page to {file}: the figures would go there, too; " in said
    assert not file.exists()


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("guest", "child"),
    [("hang", b"inspected_pyvmm"), ("hang", b"memory-backend-file"), ("exit", b"sleep\x00600")],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, guest: str, child: bytes
) -> None:
    told = tmp_path / "told.json"
    program = changed(tmp_path, HANGS_WHEN_TIMED)
    options = (*LITTLE, "--runs", "1", "--json", told, "--qemu", program, "--timeout", "5")
    process = subprocess.Popen(
        [*PYVMM, "compare", guest, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        _wait_for_child(process.pid, child)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert out == b""
    assert err.decode().splitlines()[-1] == f"pyvmm: interrupted by {number.name}"
    assert not told.exists()
    # The shell that stands for QEMU may have a child of its own, which goes a moment later.
    deadline = time.monotonic() + 30
    while _session_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _session_of(process.pid) == []


def _wait_for_child(session: int, word: bytes) -> None:
    deadline = time.monotonic() + 30
    while not any(word in command for command in _session_of(session)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _session_of(session: int) -> list[bytes]:
    """The command lines of all processes in that session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == session:
                command = (entry / "cmdline").read_bytes()
                if command:
                    found.append(command)
        except OSError:
            continue
    return found
