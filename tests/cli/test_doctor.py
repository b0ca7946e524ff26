# SPDX-License-Identifier: MIT
"""``pyvmm doctor`` and ``pyvmm guests``: that they tell the truth, as tables and as JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.system import System

from .command import ending, finish, start


@pytest.mark.kvm
def test_doctor_says_what_kvm_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    findings = {finding["what"]: finding for finding in told["findings"]}
    with System() as system:
        has = system.capabilities()
        stops = system.most_breakpoints()
    assert told["can_run"] is True
    assert (findings["guest_memfd"]["verdict"] == "has") == has.guest_memfd
    assert (findings["memory attributes"]["verdict"] == "has") == bool(has.memory_attributes)
    assert (findings["pre-fault"]["verdict"] == "has") == has.pre_fault
    assert (findings["breakpoints"]["verdict"] == "has") == bool(stops)
    assert f"{has.max_vcpus} vCPUs" in findings["limits"]["answer"]
    assert "million instructions/s" in findings["runs a guest"]["answer"]
    uses = {consequence["use"]: consequence["verdict"] for consequence in told["consequences"]}
    assert uses["pyvmm run"] != "lacks"
    assert (uses["pyvmm compare"] == "has") == (shutil.which("qemu-system-x86_64") is not None)
    assert (uses["private memory"] == "has") == bool(has.memory_attributes | has.file_attributes)


@pytest.mark.kvm
def test_the_tables_have_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert main(["doctor"]) == 0
    tables = capsys.readouterr().out
    assert "\x1b" not in tables
    for finding in findings:
        assert finding["what"] in tables


@pytest.mark.kvm
def test_the_matrix_is_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    matrix = json.loads(capsys.readouterr().out)["matrix"]
    with System() as system:
        has = system.capabilities()
    offered = {name for name, cell in matrix["vm_types"].items() if cell == "yes"}
    assert offered == {kind.name for kind in has.vm_types}
    rows = {(row["vm_type"], row["flags"]): row["tried"] for row in matrix["files"]}
    assert rows["DEFAULT", 3]["create"] in ("yes", "EINVAL")
    assert (rows["DEFAULT", int(has.guest_memfd_flags)]["create"] == "yes") == has.guest_memfd
    assert main(["doctor"]) == 0
    tables = capsys.readouterr().out
    for kind in offered:
        assert f"guest_memfds of VMs of type {kind}:" in tables


@pytest.mark.kvm
def test_against_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    written = capsys.readouterr().out
    file = tmp_path / "there.json"
    file.write_text(written)
    assert main(["doctor", "--against", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "No difference."
    other = json.loads(written)
    other["host"] = "another [host]\n\x1b[31m"
    other["matrix"]["files"][0]["tried"]["create"] = "EDOM"
    file.write_text(json.dumps(other))
    assert main(["doctor", "--against", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"There: another [host]\x0a\x1b[31m"
    assert next(line.split() for line in lines if "EDOM" in line)[-2] == "EDOM"
    assert lines.index(next(line for line in lines if "EDOM" in line)) < lines.index(
        next(line for line in lines if line.startswith("Host: "))
    )
    assert main(["doctor", "--json", "--against", str(file)]) == 1
    (only,) = json.loads(capsys.readouterr().out)["differences"]
    assert only["there"] == "EDOM"


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (None, 66, "no such file"),
        ("[]", 64, "nothing that pyvmm doctor --json wrote"),
        ("x" * (5 << 20), 65, "larger than"),
    ],
    ids=["missing", "other", "large"],
)
def test_against_what_is_no_such_file(
    content: str | None, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "there.json"
    if content is not None:
        file.write_text(content)
    assert main(["doctor", "--against", str(file)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_without_kvm_it_still_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_self: System, **_options: object) -> None:
        raise HostLacksError("open /dev/kvm", "it does [not] exist", "load the module")

    monkeypatch.setattr(System, "__init__", missing)
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["can_run"] is True, "on the model"
    assert told["consequences"][0]["verdict"] == "partly"
    monkeypatch.setattr("pyvmm.machine.examination._has_model", lambda: False)
    assert main(["doctor"]) == 69
    assert "it does [not] exist" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 69
    told = json.loads(capsys.readouterr().out)
    assert told["can_run"] is False
    assert told["consequences"][0]["verdict"] == "lacks"


def test_without_kvm_and_without_unicorn_a_run_names_both(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_self: System, **_options: object) -> None:
        raise HostLacksError("open /dev/kvm", "no such device", "load the module")

    monkeypatch.setattr("pyvmm.hosts.model.unicorn_library.is_installed", lambda: False)
    assert main(["run", "exit", "--host", "model"]) == 69
    alone = capsys.readouterr().err
    assert "Unicorn is not installed; pip install 'unicorn>=2.1.4,<3'" in alone
    monkeypatch.setattr(System, "__init__", missing)
    assert main(["run", "exit"]) == 69
    both = capsys.readouterr().err
    assert both.count("\n") == 1
    for part in ("no such device", "load the module", "Unicorn is not installed", "pip install"):
        assert part in both


def test_every_bundled_guest_is_listed_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guests", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    guests = {guest["name"]: guest["path"] for guest in listed}
    needy = [guest["name"] for guest in listed if guest["needs"]]
    assert needy == [
        "acpi", "balloon", "block", "hostile", "net", "packed", "pci", "ports", "share", "vsock",
    ]  # fmt: skip
    assert {
        "hello", "guest", "echo", "exit", "timer", "ring3", "memtest", "fault", "triple", "hang",
        "panic",
    } <= set(guests)  # fmt: skip
    assert all(Path(path).read_bytes().startswith(b"\x7fELF") for path in guests.values())
    assert main(["guests"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(guests)
    (block,) = (line for line in lines if line.startswith("block "))
    assert block.endswith("(needs a disk: --disk FILE)")
    assert Path(guests["guest"]).read_bytes() == Path(guests["hello"]).read_bytes()


ANSWERS = [
    ("doctor",), ("doctor", "--json"), ("guests",), ("guests", "--json"), ("--version",),
    ("run", "--help"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_an_answer_that_nobody_reads(command: tuple[str, ...], env: dict[str, str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (
        os.fdopen(write_end, "wb") as pipe,
        ending(start(*command, stdout=pipe.fileno(), env=env)) as it,
    ):
        outcome = finish(it)
    assert (outcome.code, outcome.err) == (71, "")


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_an_answer_that_does_not_fit(command: tuple[str, ...], env: dict[str, str]) -> None:
    with (
        open("/dev/full", "wb") as full,
        ending(start(*command, stdout=full.fileno(), env=env)) as it,
    ):
        outcome = finish(it)
    assert outcome.code == 71
    assert outcome.lines == ["pyvmm: cannot write to standard output: No space left on device"]
