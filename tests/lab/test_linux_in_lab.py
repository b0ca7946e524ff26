# SPDX-License-Identifier: MIT
"""Debian's Linux as a guest: few boots in one lab, and much that is asked of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.conftest import environment
from tests.lab.linux.guest import LinuxInLab, linux_in_lab

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]

BAD_NEWS = (
    "APIC ID mismatch|Firmware Bug|BIOS (bug|BUG|Error)|WARNING:|BUG:|Call Trace|size mismatch"
    "|ACPI (Error|Warning|Exception)|can.t (claim|allocate|assign)|conflicts with|I/O error"
)
"""Lines of the kernel's that a sound machine gives no reason for, as grep -E has them."""
GOOD_NEWS = (
    "Hypervisor detected: KVM", "kvm-clock: Using msrs", "TSC deadline timer available",
    "No PS/2 controller found", "Brought up 1 node, 2 CPUs",
)  # fmt: skip


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxInLab]:
    folder = tmp_path_factory.mktemp("linux")
    with linux_in_lab(folder, environment(tmp_path_factory.mktemp("lab"))) as at_hand:
        (folder / "scratch").write_bytes(bytes(8 << 20))
        yield at_hand


def claims(text: str, what: str) -> list[str]:
    """The ranges of /proc/iomem or /proc/ioports that belong to `what`."""
    return [line.split(" : ")[0].strip() for line in text.splitlines() if line.endswith(what)]


def test_two_processors_a_root_on_a_disk_and_the_power_button(linux: LinuxInLab) -> None:
    arguments = ["--cpus", "2", "--rng", "--disk", "disk", "--disk", "scratch,serial=scratch-1"]
    with linux.boot(
        *arguments, "--qmp", "unix:/tmp/button", line="root=/dev/vda rw quiet"
    ) as guest:
        guest.shell()
        # What the kernel said. Each 16 bytes of the console are an interrupt: not all of it.
        assert guest.ask(f"dmesg | grep -E '{BAD_NEWS}'", code=1) == ""
        said = guest.ask(f"dmesg | grep -E '{'|'.join(GOOD_NEWS)}'")
        assert [news for news in GOOD_NEWS if news not in said] == []
        # Processors, as CPUID's leaves and the MADT have them.
        assert guest.ask("nproc") == "2\n"
        processors = guest.ask("grep '^initial apicid' /proc/cpuinfo")
        assert re.findall(r": (\d+)", processors) == ["0", "1"]
        # A root file system that can be written to, from the first disk.
        assert "/dev/vda / ext4 rw" in guest.ask("grep vda /proc/mounts")
        guest.ask("echo kept > /root/note; sync")
        # Memory: the bus's windows and its configuration space, each claimed once.
        memory = guest.ask("grep -E 'MMCONFIG|IOAPIC' /proc/iomem")
        assert claims(memory, "PCI MMCONFIG 0000 [bus 00-00]") == ["e0000000-e00fffff"]
        assert len(claims(memory, "IOAPIC 0")) == 1
        assert claims(guest.ask("grep PM_TMR /proc/ioports"), "ACPI PM_TMR") == ["0608-060b"]
        # The devices, with a message for each of their queues.
        assert guest.ask("ls /sys/bus/pci/devices").split() == [
            "0000:00:00.0", "0000:00:01.0", "0000:00:02.0", "0000:00:03.0",
        ]  # fmt: skip
        interrupts = guest.ask("grep -E 'virtio0|LOC' /proc/interrupts")
        assert re.search(r"PCI-MSI .*virtio0-req\.0", interrupts)
        assert not re.search(r"LOC: +0 ", interrupts)
        assert guest.ask("cat /sys/block/vdb/serial") == "scratch-1"
        assert guest.ask("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0\n"
        assert guest.ask("head -c 32 /dev/hwrng | wc -c") == "32\n"
        # Reads, writes, discards and zeroings, compared with what was written.
        assert guest.ask("diskcheck /dev/vdb 1 100").endswith("as written\n")
        # Its driver goes and comes back, and so does the disk.
        device = guest.ask("basename $(readlink /sys/block/vdb/device)").strip()
        for way in ("unbind", "bind"):
            guest.ask(f"echo {device} > /sys/bus/virtio/drivers/virtio_blk/{way}")
        assert guest.ask("diskcheck /dev/vdb 2 20").endswith("as written\n")
        assert guest.ask(f"dmesg | grep -E '{BAD_NEWS}'", code=1) == ""
        answers = linux.ask_monitor("/tmp/button", "query-cpus-fast", "system_powerdown")
        assert answers.count("cpu-index") == 2
        assert guest.end() == 0


def test_over_mmio_reboot_and_power_off(linux: LinuxInLab) -> None:
    with linux.boot(
        "--transport", "mmio", "--disk", "disk", "--reboot", "again", line="quiet"
    ) as guest:
        guest.shell()
        assert guest.ask("ls /sys/bus/acpi/devices | grep LNRO0005") == "LNRO0005:00\n"
        guest.ask("mount /dev/vda /mnt")
        guest.ask("echo more >> /mnt/root/note; umount /mnt")
        guest.say(b"reboot\n")
        # The same machine, from its start; what was written is on the disk.
        guest.shell()
        guest.ask("mount -o ro /dev/vda /mnt")
        assert "more\n" in guest.ask("cat /mnt/root/note")
        guest.say(b"poweroff\n")
        assert guest.end() == 0


def test_a_panic_ends_the_run_as_one(linux: LinuxInLab) -> None:
    with linux.boot(line="quiet") as guest:
        guest.shell()
        guest.say(b"echo c > /proc/sysrq-trigger\n")
        assert guest.end() == 81
        assert "Kernel panic - not syncing: sysrq triggered crash" in guest.text()


def test_eight_processors_sockets_a_port_and_a_balloon(linux: LinuxInLab) -> None:
    arguments = ["--cpus", "8", "--vsock", "cid=5,path=/tmp/vsock", "--port", "talk=/tmp/port"]
    with linux.boot(*arguments, "--balloon", "--qmp", "unix:/tmp/eight", line="quiet") as guest:
        guest.shell()
        assert guest.ask("nproc") == "8\n"
        assert guest.ask(f"dmesg | grep -E '{BAD_NEWS}'", code=1) == ""
        # A program of the host's and one of the guest's, by their sockets.
        guest.ask("vsockecho 7 > /tmp/told & until grep -q listening /tmp/told; do sleep 0.1; done")
        linux.talk("/tmp/vsock", "CONNECT 7\\n", "", "over here\\n", "over here")
        assert guest.ask("wait; cat /tmp/told") == "listening\n10 bytes\n"
        # A port of the console device, by its name.
        assert guest.ask("cat /sys/class/virtio-ports/vport1p1/name") == "talk\n"
        # Before the host has connected, a port is at its end.
        guest.ask(
            "(until read -r word; do sleep 0.1; done; echo $word back) <> /dev/vport1p1 >&0 &"
        )
        linux.talk("/tmp/port", "there\\n", "there back")
        # Memory that the guest gives up: 32 MiB of its 512.
        free = "awk '/MemFree/ {print $2}' /proc/meminfo"
        most = int(guest.ask(free)) - 24_000
        smaller = {"execute": "balloon", "arguments": {"value": 480 << 20}}
        linux.ask_monitor("/tmp/eight", json.dumps(smaller))
        guest.ask(f"until [ $({free}) -lt {most} ]; do sleep 0.1; done")
        assert "return" in linux.ask_monitor("/tmp/eight", "query-balloon", "quit")
        assert guest.end() == 0
