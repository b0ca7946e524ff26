# SPDX-License-Identifier: MIT
"""``pyvmm linux``: the files that it writes, read by other programs, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.lab.linux import root_files
from tests.lab.linux.test_modules import module_file

RELEASE = "6.1.0-1-cloud-amd64"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def busybox() -> None:
    if not any(path.exists() for path in root_files.BUSYBOX):
        pytest.skip("this host has no busybox-static")


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[Path, Path]:
    """A kernel that is only a file, and the folder of its modules."""
    (tmp_path / "mine").write_bytes(b"a kernel")
    modules = tmp_path / RELEASE / "kernel"
    modules.mkdir(parents=True)
    (modules / "virtio.ko").write_bytes(module_file("depends="))
    (modules / "virtio_blk.ko").write_bytes(module_file("depends=virtio", "alias=virtio:d2v*"))
    (modules / "other.ko").write_bytes(module_file("depends="))
    return tmp_path / "mine", tmp_path / RELEASE


def listed(initrd: Path) -> set[str]:
    done = subprocess.run(
        ["busybox", "cpio", "-it"], input=initrd.read_bytes(), capture_output=True, check=True
    )
    return set(done.stdout.decode().split())


def test_a_kernel_of_ones_own_with_a_disk(
    kernel: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    folder = tmp_path / "new" / "folder"
    code = main(
        ["linux", str(folder), "--kernel", str(kernel[0]), "--modules", str(kernel[1]),
         "--module", "other", "--add", str(program), "--disk", "16M", "--json"]
    )  # fmt: skip
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    answer = json.loads(told.out)
    assert answer["release"] == RELEASE
    assert answer["modules"] == ["other", "virtio", "virtio_blk"]
    assert (folder / "vmlinuz").read_bytes() == b"a kernel"
    names = listed(folder / "initrd")
    place = f"lib/modules/{RELEASE}"
    assert {
        "init", "bin/busybox", "bin/program", "sbin/init",
        "var/log", "sbin/modprobe", "dev/console",
        f"{place}/modules.dep", f"{place}/other.ko", "etc/inittab",
    } <= names  # fmt: skip
    disk = folder / "disk"
    assert disk.stat().st_size == 16 << 20
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    inside = subprocess.run(
        ["debugfs", "-R", "stat /bin/program", disk], capture_output=True, text=True, check=True
    )
    assert "Mode:  0755" in inside.stdout


def test_without_modules_and_disk(
    kernel: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["linux", str(tmp_path / "out dir"), "--kernel", str(kernel[0])]) == 0
    told = capsys.readouterr()
    first, command = told.out.splitlines()
    assert first == "Linux mine, 0 modules; boot it with"
    assert command == (
        f"pyvmm run '{tmp_path}/out dir/vmlinuz' --initrd '{tmp_path}/out dir/initrd' -m 512M"
        " --append console=ttyS0"
    )
    assert not any("modules/" in name for name in listed(tmp_path / "out dir" / "initrd"))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--modules", "x"], 64, "they belong to no kernel; give --kernel, too"),
        (["--kernel", "nosuch"], 66, "take the kernel nosuch: it is no file"),
        (["--kernel", "K", "--modules", "nosuch"], 66, "it is no folder"),
        (["--kernel", "K", "--module", "x"], 64, "no modules to choose from"),
        (["--kernel", "K", "--suite", "sid"], 64, "nothing is fetched from Debian"),
        (["--kernel", "K", "--modules", "M", "--module", "nosuch"], 64, "none of that name"),
        (["--kernel", "K", "--add", "nosuch"], 66, "add nosuch: No such file or directory"),
        (["--kernel", "K", "--add", "FIFO"], 66, "it is no regular file"),
        (["--kernel", "K", "--add", "/dev/zero"], 66, "it is no regular file"),
        (["--kernel", "K", "--add", "DYNAMIC"], 65, "it needs libraries that the guest has not"),
        (["--kernel", "K", "--disk", "1M"], 64, "it is 8M to 4T"),
        (["--kernel", "K", "--disk", "9999999999T"], 64, "it is 8M to 4T"),
        (["--kernel", "K", "--disk", "8194K"], 64, "by 4K"),
        (["--suite", ""], 64, "no name that Debian would give"),
        (["--package", ""], 64, "no name that Debian would give"),
        (["--suite", "../x"], 64, "no name that Debian would give"),
    ],
)
def test_refused(
    kernel: tuple[Path, Path],
    tmp_path: Path,
    options: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(tmp_path / "fifo")
    dynamic = tmp_path / "dynamic"
    dynamic.write_bytes(b"\x7fELF" + bytes(100) + b"/lib64/ld-linux-x86-64.so.2\0")
    known = {"K": str(kernel[0]), "M": str(kernel[1]), "FIFO": str(tmp_path / "fifo")}
    known["DYNAMIC"] = str(dynamic)
    given = [known.get(option, option) for option in options]
    assert main(["linux", str(tmp_path / "out"), *given]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_again_into_the_same_folder(kernel: tuple[Path, Path], tmp_path: Path) -> None:
    """A guest that runs on the disk that is replaced keeps it; the kernel is where it belongs."""
    out = tmp_path / "out"
    assert main(["linux", str(out), "--kernel", str(kernel[0]), "--disk", "8M"]) == 0
    with (out / "disk").open("rb") as guests:
        before = guests.read()
        again = ["linux", str(out), "--kernel", str(out / "vmlinuz"), "--disk", "16M"]
        assert main(again) == 0
        guests.seek(0)
        assert guests.read() == before
    assert (out / "disk").stat().st_size == 16 << 20
    assert (out / "vmlinuz").read_bytes() == b"a kernel"
    assert sorted(path.name for path in out.iterdir()) == ["disk", "initrd", "vmlinuz"]


def test_a_place_that_cannot_be_written_to(
    kernel: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["linux", str(tmp_path / "file"), "--kernel", str(kernel[0])]) == 71
    assert "write a kernel to" in capsys.readouterr().err


def test_files_too_large_for_the_disk(
    kernel: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (40 << 10))
    out = tmp_path / "out"
    given = ["--kernel", str(kernel[0]), "--add", str(large), "--disk", "8M"]
    assert main(["linux", str(out), *given]) == 69
    assert "give a larger --disk" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["initrd", "vmlinuz"]
