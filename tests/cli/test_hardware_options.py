# SPDX-License-Identifier: MIT
"""Options that say which hardware: how they are written, and what they become."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.hardware_options import hardware_of
from pyvmm.cli.main import main
from pyvmm.cli.named_values import named_values
from pyvmm.cli.numa_option import parse_node
from pyvmm.machine.hardware import Hardware, MemoryPolicy, NumaNode, Share


def test_a_comma_of_a_value_is_doubled() -> None:
    assert named_values("a,,b.img,serial=x,,y,queues=2", ("serial", "queues")) == (
        "a,b.img",
        {"serial": "x,y", "queues": "2"},
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b", "it may be serial=, queues="),
        ("a,size=1", "it may be serial="),
        ("a,serial=1,serial=2", "serial= comes twice"),
        ("a,", "it may be"),
    ],
)
def test_what_cannot_be_is_refused(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        named_values(text, ("serial", "queues"))


def test_nothing_asked_for_is_none_and_the_rest_becomes_hardware() -> None:
    options = argparse.Namespace(image="x", hardware_rng=None, hardware_shares=[])
    assert hardware_of(options) is None
    share = Share("tag", Path("folder"))
    options = argparse.Namespace(hardware_rng=True, hardware_shares=[share])
    assert hardware_of(options) == Hardware(rng=True, shares=(share,))


def test_a_node_is_written_as_qemu_writes_it() -> None:
    text = "8M,cpus=0-1,cpus=4,policy=interleave,host-nodes=0,host-nodes=2-3"
    assert parse_node(text) == NumaNode(8 << 20, (0, 1, 4), MemoryPolicy.INTERLEAVE, (0, 2, 3))
    assert parse_node("1G") == NumaNode(1 << 30)


@pytest.mark.parametrize(("transport", "functions"), [("pci", 2), ("mmio", 0)])
def test_a_disk_is_reached_as_it_was_asked_for(
    transport: str, functions: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "d.img"
    disk.write_bytes(bytes(64 * 512))
    options = ["--host", "model", "--disk", str(disk), "--transport", transport]
    assert main(["run", "block", "--append", "rounds=1", *options]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "round 1"
    assert main(["run", "pci", *options]) == (0 if functions else 2)
    assert capfd.readouterr().out.count("slot ") == functions


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--transport", "isa"], "'isa' cannot be: it is pci or mmio"),
        (["--transport", "mmio", "--private"], "cannot decode the instructions"),
        (["--numa", "128M"], "add up to 128M, and its memory is 256M"),
        (["--numa", "256M"], "vCPU 0 is in none of them"),
        (["--numa", "256M,cpus=1-0"], "'1-0' is no number and no range"),
        (["--numa", "256M,cpus=a"], "'a' is no number and no range"),
        (["--numa", "256M,mem=1"], "it may be cpus=, policy=, host-nodes="),
        (["--numa", "256M,policy=near"], "it is bind or preferred or interleave"),
        (["--numa", "256M,policy=bind,policy=bind"], "comes twice"),
        (["--numa", "much"], "'much' is no size"),
        (["--numa", "256M,cpus=0", "--private"], "leave --numa or --private out"),
        (["--numa", "256M,cpus=0", "--irqchip", "off"], "give --irqchip on, or no --numa"),
        (["--numa", "256M,cpus=0", "--acpi", "off"], "leave --acpi off out"),
        (["--irqchip", "off"], "there are no interrupt controllers"),
        ([f"--port=p{n}=FOLDER/{n}" for n in range(20)], "it has 44 queues; a device on PCI"),
    ],
)
def test_what_no_machine_can_have_is_told_in_one_line(
    options: list[str], why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "d.img"
    disk.write_bytes(bytes(512))
    host = [] if "--private" in options else ["--host", "model"]
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert main(["run", "block", *host, "--disk", str(disk), *options]) == 64
    said = capfd.readouterr().err
    assert why in said
    assert said.count("\n") == 1
