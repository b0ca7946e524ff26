# SPDX-License-Identifier: MIT
"""``pyvmm compare --linux``: what Linux said taken apart, compared, told; nothing is booted."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.compare.linux import runs as linux_runs
from pyvmm.compare.linux.facts import Facts, Section, facts_of
from pyvmm.compare.linux.json_form import to_json
from pyvmm.compare.linux.report import LinuxPair, LinuxReport, LinuxRun, LinuxSubject
from pyvmm.compare.linux.runs import LinuxRequest, MarkedTranscript, command_of, linux_files
from pyvmm.compare.linux.text import to_text
from pyvmm.compare.linux.verdict import judge
from pyvmm.compare.report import Absent
from pyvmm.compare.subjects import QemuAccelerator, QemuMachine, QemuSubject
from pyvmm.lab.initramfs import Entry, archive

SCRIPT = Path(linux_runs.__file__).parent / "machine"
FEATURES = "0010011001110000000000000000110010000000000000000000000000000000"
BOOT = """\
[    0.959852] PCI: Fatal: No config space access function found
@ uptime
26.33 0.00
@ cpus
processor	: 0
physical id	: 0
core id		: 0
initial apicid	: 0
processor	: 1
physical id	: 0
core id		: 1
initial apicid	: 1
@ clock
kvm-clock
kvm-clock tsc acpi_pm
@ memory
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
  000f0000-000fffff : System ROM
  08c00000-09a01ef1 : Kernel code
fee00000-fee00fff : Local APIC
@ pci
0000:00:00.0 0x1b36 0x0008 0x060000 -
0000:00:01.0 0x1af4 0x1042 0x018000 virtio-pci
@ virtio
virtio0 0x0002 0x0000000f FEATURES virtio_blk
@ interrupts
  4:        128          0   IO-APIC   4-edge      ttyS0
 24:          0          1   PCI-MSI 16385-edge      virtio0-req.0
@ disk
131072
72b48883  -
@ warnings
@ log
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.049234] ACPI: RSDP 0x00000000000F34D0 000024 (v02 BOCHS )
[    0.058240] ACPI: FACS 0x000000001FFE0000 000040
[    8.542106] 00:00: ttyS0 at I/O 0x3f8 (irq = 50, base_baud = 115200) is a 16550A
@ end
[   30.289833] reboot: Power down
""".replace("FEATURES", FEATURES)
MICROVM = LinuxSubject(
    QemuMachine.MICROVM,
    QemuSubject("qemu", "7.2.22", QemuAccelerator.KVM, QemuMachine.MICROVM, "host"),
)
Q35 = LinuxSubject(
    QemuMachine.Q35,
    QemuSubject("qemu", "7.2.22", QemuAccelerator.KVM, QemuMachine.Q35, "host", firmware=""),
)


def facts(*changes: tuple[str, str]) -> Facts:
    text = BOOT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    found = facts_of(text.encode())
    assert found is not None
    return found


def run(found: Facts | None, number: int = 1, exit_code: int = 0, total: float = 2.0) -> LinuxRun:
    return LinuxRun(number, exit_code, 1.5, total, 0.5, 0.25, 64 << 20, found)


def report(theirs: Facts | None, *more: LinuxRun, machine: LinuxSubject = Q35) -> LinuxReport:
    ours = facts()
    pair = LinuxPair(
        LinuxSubject(machine.machine), machine, (run(ours), *more), (run(theirs, total=4.0),),
        judge(machine.machine, ours, theirs) if theirs else (),
    )  # fmt: skip
    return LinuxReport(
        "g", "quiet -- machine", 256 << 20, 2, True, "Linux 6, 2 CPUs", 1, (pair,),
        (Absent("qemu kvm microvm", "it has none"),),
    )  # fmt: skip


# -- what the guest said --


def test_facts_of_a_boot() -> None:
    found = facts()
    assert found.uptime == 26.33
    assert found.sections == {
        Section.CPUS: (
            "processor 0, physical id 0, core id 0, initial apicid 0",
            "processor 1, physical id 0, core id 1, initial apicid 1",
        ),
        Section.CLOCK: (
            "current kvm-clock", "available kvm-clock", "available tsc", "available acpi_pm",
        ),
        Section.MEMORY: (
            "00001000-0009fbff System RAM", "0009fc00-000fffff Reserved",
            "000f0000-000fffff System ROM", "Kernel code", "fee00000-fee00fff Local APIC",
            "System RAM in MiB, rounded up: 1",
        ),
        Section.PCI: (
            "0000:00:00.0 1b36:0008 class 060000 driver -",
            "0000:00:01.0 1af4:1042 class 018000 driver virtio-pci",
        ),
        Section.VIRTIO: (
            "virtio0 device 2 status 0f driver virtio_blk",
            *(f"virtio0 feature {bit}" for bit in (2, 5, 6, 9, 10, 11, 28, 29, 32)),
        ),
        Section.INTERRUPTS: ("IO-APIC 4-edge ttyS0", "PCI-MSI virtio0-req.0"),
        Section.DISK: ("sectors of 512 bytes 131072", "SHA-256 of the first MiB 72b48883"),
        Section.WARNINGS: (),
        Section.LOG: (
            "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
            "ACPI table RSDP v02", "ACPI table FACS",
            "ttyS0 at I/O 0x3f8 (base_baud = 115200) is a 16550A",
        ),
    }  # fmt: skip


def test_what_is_different_in_every_boot_is_no_fact() -> None:
    again = facts(
        ("26.33", "1.01"), ("08c00000-09a01ef1", "18c00000-19a01ef1"), ("16385", "32769"),
        (" 24:          0          1", " 30:         70         12"), ("irq = 50", "irq = 4"),
        ("[    0.049234] ", "[   10.049234] "), ("000F34D0 000024", "000E0000 000024"),
        ("\n", "\r\n"),
    )  # fmt: skip
    assert again.sections == facts().sections


@pytest.mark.parametrize(
    "console",
    [
        b"",
        b"\xff\xfe\n@ end\n",
        BOOT.replace("@ end", "").encode(),
        BOOT.replace("@ pci\n", "").encode(),
        BOOT.replace("26.33 0.00\n", "").encode(),
        BOOT.replace("26.33", "soon").encode(),
        BOOT[: len(BOOT) // 2].encode(),
    ],
)
def test_a_guest_that_did_not_say_all(console: bytes) -> None:
    assert facts_of(console) is None


def test_lines_of_another_form_are_kept_as_they_are() -> None:
    odd = facts(
        ("0000:00:00.0 0x1b36 0x0008 0x060000 -", "0000:00:00.0 odd"), (FEATURES, ""),
        ("processor	: 0\n", ""), ("  4:        128", "odd 128"),
    )  # fmt: skip
    assert "0000:00:00.0 odd" in odd.sections[Section.PCI]
    assert "virtio0 0x0002 0x0000000f  virtio_blk" in odd.sections[Section.VIRTIO]
    assert "odd 128 0 IO-APIC 4-edge ttyS0" in odd.sections[Section.INTERRUPTS]
    assert len(odd.sections[Section.CPUS]) == 1


# -- the verdict --


def test_the_same_machine_agrees() -> None:
    found = report(facts())
    assert found.agrees
    assert [one.same for one in found.pairs[0].sections] == [2, 4, 6, 2, 10, 2, 2, 0, 4]
    text = to_text(found, 80)
    assert "DIFFER" not in text
    assert text.endswith("\nThe machines agree.")
    assert "left out: qemu kvm microvm: it has none" in text
    assert re.search(r"whole process, s +2\.00 +4\.00 +0\.50\n", text)


def test_known_differences_agree_and_their_reasons_are_told() -> None:
    theirs = facts(
        ("0009fc00-000fffff : Reserved", "0009fc00-0009ffff : Reserved"), ("RSDP", "RSDT"),
    )  # fmt: skip
    found = report(theirs)
    assert found.agrees
    text = to_text(found, 100)
    assert "    - 0009fc00-000fffff Reserved  (reserved-memory)\n" in text
    assert "    + 0009fc00-0009ffff Reserved  (reserved-memory)\n" in text
    assert "  memory     5 same, 2 known\n" in text
    assert "\nWhy:\n  reserved-memory: " in text


@pytest.mark.parametrize(
    ("change", "section", "fact", "side"),
    [
        (("initial apicid	: 1", "initial apicid	: 4"), "cpus", "initial apicid 4", "qemu"),
        (("kvm-clock\nkvm", "tsc\nkvm"), "clock", "current kvm-clock", "pyvmm"),
        (("fee00000-fee00fff : Local APIC\n", ""), "memory", "Local APIC", "pyvmm"),
        (("00001000-0009fbff", "00001000-0019fbff"), "memory", "rounded up: 2", "qemu"),
        (("0x1042 0x018000 virtio-pci", "0x1042 0x018000 -"), "pci", "driver -", "qemu"),
        (("0x0000000f ", "0x0000008f "), "virtio", "status 8f driver virtio_blk", "qemu"),
        (("0110010000000", "0010010000000"), "virtio", "feature 28", "pyvmm"),
        (("4-edge      ttyS0", "3-edge      ttyS0"), "interrupts", "3-edge ttyS0", "qemu"),
        (("72b48883", "82b48883"), "disk", "first MiB 82b48883", "qemu"),
        (("@ warnings\n", "@ warnings\n[ 1.0] BUG: x\n"), "warnings", "BUG: x", "qemu"),
        (("is a 16550A", "is a 8250"), "log", "is a 8250", "qemu"),
    ],
)  # fmt: skip
def test_each_section_can_disagree(
    change: tuple[str, str], section: str, fact: str, side: str
) -> None:
    found = report(facts(change))
    assert not found.agrees
    (pair,) = found.pairs
    unknown = [one for two in pair.sections for one in two.differences if not one.key]
    assert {one.section.value for one in unknown} == {section}
    assert any(one.fact.endswith(fact) and one.side.value == side for one in unknown)
    text = to_text(found, 120)
    assert f"{fact}  DIFFERS\n" in text
    assert text.endswith("\nThe machines do not agree.")


@pytest.mark.parametrize(
    ("again", "trouble"),
    [
        (run(None, 2), "boot 2: the guest's command did not come to its end"),
        (run(facts(), 2, exit_code=81), "boot 2 ended with 81, not with 0"),
        (
            run(facts(("131072", "131073")), 2),
            "boot 2 only, or the first one only: disk: sectors of 512 bytes 131072",
        ),
    ],
)
def test_a_boot_that_goes_otherwise(again: LinuxRun, trouble: str) -> None:
    found = report(facts(), again)
    assert not found.agrees
    assert found.pairs[0].troubles[0] == ("pyvmm pci", trouble)
    assert f"  pyvmm pci: {trouble}\n" in to_text(found, 120)


def test_the_logs_of_two_boots_may_differ() -> None:
    assert report(facts(), run(facts(("is a 16550A", "is a 8250")), 2)).agrees


def test_a_qemu_without_facts() -> None:
    found = report(None)
    assert not found.agrees
    assert found.pairs[0].troubles[0][0] == "QEMU 7.2.22 kvm q35"
    told = to_json(found)["pairs"]
    assert isinstance(told, list)
    assert (told[0]["sections"], told[0]["qemu"]["facts"]) == ([], None)


# -- the forms --


def test_lines_fit_into_80_columns() -> None:
    found = report(facts(("0009fc00-000fffff", "0009fc00-0009ffff"), ("16550A", "16550A" * 20)))
    assert max(map(len, to_text(found, 80).split("\n"))) <= 140
    reasons = to_text(found, 80).split("\nWhy:\n")[1]
    assert max(map(len, reasons.split("\n"))) <= 80


def test_json() -> None:
    told = to_json(report(facts(("0009fc00-000fffff", "0009fc00-0009ffff"))))
    assert (told["schema"], told["agrees"]) == ("pyvmm-compare-linux-1", True)
    pairs = told["pairs"]
    assert isinstance(pairs, list)
    (pair,) = pairs
    assert pair["machine"] == "q35"
    assert pair["pyvmm"]["figures"]["peak_rss_mib"] == {
        "median": 64.0, "range": [64.0, 64.0], "count": 1,
    }  # fmt: skip
    assert pair["pyvmm"]["facts"]["clock"][0] == "current kvm-clock"
    memory = next(one for one in pair["sections"] if one["section"] == "memory")
    assert [(one["only"], one["key"]) for one in memory["differences"]] == [
        ("pyvmm", "reserved-memory"), ("qemu", "reserved-memory"),
    ]  # fmt: skip


# -- the boots --


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vmlinuz").write_bytes(b"a kernel")
    (tmp_path / "initrd").write_bytes(archive([Entry("init", 0o100755, b"x")]) + b"\0")
    return tmp_path


def commands(folder: Path, subjects: Sequence[LinuxSubject]) -> list[str]:
    request = LinuxRequest(folder, "nopti", 256 << 20, 2, 60.0)
    with linux_files(request) as files:
        return [" ".join(command_of(subject, files)) for subject in subjects]


def test_both_get_the_same_with_the_same_transport(folder: Path) -> None:
    (folder / "disk").write_bytes(bytes(512))
    ours, theirs, our_bus, their_bus = commands(
        folder, (LinuxSubject(QemuMachine.MICROVM), MICROVM, LinuxSubject(QemuMachine.Q35), Q35)
    )
    line = "console=ttyS0 quiet panic=-1 nopti -- machine"
    for command in (ours, theirs, our_bus, their_bus):
        assert line in command
        assert f"{256 << 20}B" in command
        assert "readonly=on" in command
        assert str(folder) not in command  # Commas and blanks of its name mean nothing.
    assert "--transport mmio" in ours
    assert "--transport pci" in our_bus
    assert "-machine microvm,firmware=qboot.rom" in theirs
    assert "force-legacy=false" in theirs
    assert "virtio-blk-device,drive=disk" in theirs
    assert "-machine q35,smbus=off" in their_bus
    assert "virtio-blk-pci,disable-legacy=on,drive=disk" in their_bus


def test_a_folder_without_a_disk(folder: Path) -> None:
    ours, theirs = commands(folder, (LinuxSubject(QemuMachine.Q35), Q35))
    assert "--disk" not in ours
    assert "virtio-blk" not in theirs


def test_the_script_is_one_more_part_of_the_initrd(folder: Path) -> None:
    request = LinuxRequest(folder, "", 256 << 20, 1, 60.0)
    assert request.command_line == "console=ttyS0 quiet panic=-1 -- machine"
    with linux_files(request) as files, open(files.initrd, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read()
    part = data.index(b"bin/machine\0") - 110
    assert part % 4 == 0
    assert data[part : part + 6] == b"070701"
    assert SCRIPT.read_bytes() in data


def test_the_script_has_every_section_and_is_one_for_a_shell() -> None:
    marks = re.findall(r'^echo "@ ([a-z]+)"$', SCRIPT.read_text(), re.MULTILINE)
    assert marks == ["uptime", *(section.value for section in Section), "end"]
    subprocess.run(["sh", "-n", SCRIPT], check=True)


@pytest.mark.parametrize(
    ("pieces", "at"),
    [
        ([b"PCI: Fatal\n", b"@ up", b"time\n1 1\n", b"@ cpus\n"], 2),
        ([b"@ uptime\n", b"more"], 0),
        ([b"no", b"mark"], None),
    ],
)
def test_the_time_of_the_script_is_that_of_its_mark(
    pieces: list[bytes], at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = MarkedTranscript()
    for number, piece in enumerate(pieces):
        monkeypatch.setattr("pyvmm.compare.processes.time.monotonic", lambda now=number: now)
        said.take(piece)
    assert said.first == at
    assert said.text == b"".join(pieces)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["nowhere", "--linux"], 66, "read nowhere/vmlinuz"),
        (["nowhere", "--linux", "--html", "x"], 64, "compare Linux with --html"),
        (["nowhere", "--linux", "--initrd", "x"], 64, "compare Linux with --initrd"),
        (["nowhere", "--linux", "--host", "model"], 64, "--host other than kvm"),
        (["nowhere", "--linux", "--accel", "kvm,tcg"], 64, "--accel other than kvm"),
        (["nowhere", "--linux", "--machine", "q35,pc"], 64, "--machine pc"),
        (["nowhere", "--linux", "--runs", "0"], 64, "give 1 to 1000"),
        (["nowhere", "--linux", "--append", "a -- sh"], 64, "kernel's command line"),
        (["nowhere", "--linux", "--append", "a " * 1000], 64, "kernel's command line"),
        (["hello", "--machine", "q35"], 64, "that is for Linux"),
    ],
)
def test_refused_in_one_line(
    options: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
