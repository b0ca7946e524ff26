# SPDX-License-Identifier: MIT
"""The parts of the benchmark of Linux that need no lab: marks, figures, what is compared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from benchmarks import linux
from benchmarks.linux_console import Console, disk_figures, monitor_figures
from benchmarks.measure import CannotRunError, Effort

COMMAND_LINE = b"[    0.0] Command line: quiet -- echo GUEST READY; diskbench; echo GUEST DONE\r\n"
DISK = b'{"write_mib": 10.5, "read_mib": 20.0, "depth_1": 300.0, "depth_32": 4000.0}\r\n'
FIGURES = {
    "write_mib_per_s": 10.5,
    "read_mib_per_s": 20.0,
    "random_1_per_s": 300.0,
    "random_32_per_s": 4000.0,
}


@contextmanager
def saying(data: bytes, *, ended: bool = True) -> Iterator[Console]:
    """A console that has `data`, of a guest that has ended or goes on."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, closing(open(writer, "wb", buffering=0)) as guest:
        guest.write(data)
        if ended:
            guest.close()
        yield Console(pipe, patience=600 if ended else 0)


def test_marks_are_lines_and_not_what_the_kernel_repeats_of_its_command_line() -> None:
    with saying(COMMAND_LINE + b"GUEST READY\r\n" + DISK + b"GUEST DONE\r\n") as console:
        marks = [console.wait_for(b"Command line")]
        marks += [console.wait_for_line(line) for line in (b"GUEST READY", b"GUEST DONE")]
        marks.append(console.wait_for_end())
        assert marks == sorted(marks)
        assert console.disk() == FIGURES
    with saying(COMMAND_LINE) as console, pytest.raises(CannotRunError, match="ended before"):
        console.wait_for_line(b"GUEST DONE")


def test_a_guest_that_says_nothing_more_is_given_up_with_its_last_words() -> None:
    with (
        saying(b"Kernel panic\r\n", ended=False) as console,
        pytest.raises(CannotRunError, match="too long"),
    ):
        console.wait_for_end()
    with saying(b"Kernel panic\r\n") as console, pytest.raises(CannotRunError) as caught:
        console.wait_for_line(b"GUEST READY")
    assert str(caught.value).endswith("last: Kernel panic")


@pytest.mark.parametrize("line", [b"{", b"{}", b"[]", b'{"write_mib": null}'])
def test_a_disk_without_figures_is_an_error(line: bytes) -> None:
    with pytest.raises(CannotRunError, match="no figures of a disk"):
        disk_figures(line)


def test_a_monitors_memory_and_exits() -> None:
    answer = "peak\t  2048 kB\nexits 7\nio_exits 5\n"
    assert monitor_figures(answer, ("exits", "io_exits")) == {
        "rss_mib": 2.0,
        "exits": 7,
        "io_exits": 5,
    }
    with pytest.raises(CannotRunError, match="does not count halt_exits"):
        monitor_figures(answer, ("halt_exits",))
    with pytest.raises(CannotRunError, match="no monitor"):
        monitor_figures("exits 7\nio_exits\n", ("exits",))


def test_all_boot_the_same_files_with_the_same_memory_and_command_line() -> None:
    commands = linux.commands("/folder", Effort(1, 1.0))
    assert set(commands) == {"microvm", "pyvmm, mmio", "q35", "pyvmm, PCI"}
    for words in commands.values():
        assert {"/folder/vmlinuz", "/folder/initrd"} <= set(words)
        assert sum("/tmp/disk" in word for word in words) == 1
        assert sum("/tmp/scratch" in word for word in words) == 1
    lines = {
        words[words.index(option) + 1]
        for words in commands.values()
        for option in ("-append", "--append")
        if option in words
    }
    assert len(lines) == 1
    assert lines.pop().endswith("; diskbench /dev/vdb 48 2000; echo GUEST DONE")


def test_every_figure_with_a_target_is_compared_with_microvm_and_told_beside_q35() -> None:
    with_target = [one for one in linux.comparisons() if one.target is not None]
    assert [one for one in with_target if one.baseline != "microvm"] == []
    targets = {(one.subject, one.figure): str(one.target) for one in with_target}
    for subject in ("pyvmm, mmio", "pyvmm, PCI"):
        assert {figure: limit for (name, figure), limit in targets.items() if name == subject} == {
            "kernel_to_init_ms": "<= 1.00",
            "whole_ms": "<= 1.00",
            "read_mib_per_s": ">= 0.90",
            "write_mib_per_s": ">= 0.90",
            "random_1_per_s": ">= 0.60",
            "random_32_per_s": ">= 0.80",
            "rss_mib": "<= 1.00",
        }
    beside = {one.figure for one in linux.comparisons() if one.baseline == "q35"}
    assert {"exits", *(figure for _, figure in targets)} <= beside


def test_the_look_at_a_monitor_is_a_script_that_a_shell_takes() -> None:
    done = subprocess.run(["sh", "-n", "-c", linux.LOOK], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
