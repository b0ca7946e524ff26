# SPDX-License-Identifier: MIT
"""Files of a root file system around busybox; the initial RAM file system, and a disk with them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pyvmm.errors import HostLacksError, ImageError, NoInputError, UsageError
from pyvmm.lab.initramfs import Entry, archive
from pyvmm.lab.kernel.failures import system_call_error
from pyvmm.lab.linux import modules
from pyvmm.memory.sizes import size_text

BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
SHORTEST_DISK = 8 << 20
"""In bytes: an ext4 with a journal and busybox in it has room."""
LONGEST_DISK = 4 << 40
"""In bytes: more than anybody boots with; file systems of the host's have an end, too."""
_HERE = Path(__file__).parent
_FOLDERS = (
    "bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "mnt", "proc", "root", "sbin", "sys", "tmp",
    "lib", "lib/modules", "run", "var", "var/log", "var/run",
)  # fmt: skip
_IN_SBIN = ("init", "modprobe")
"""Programs that the kernel itself starts by these names; the shell finds its own without any."""
_INITTAB = """\
::sysinit:/etc/rc
::respawn:/bin/cttyhack /etc/session
::ctrlaltdel:/bin/reboot
::shutdown:/bin/umount -a -r
"""
_POWER_BUTTON = "#!/bin/busybox sh\nexec poweroff\n"
_BLOCK = 4 << 10
"""Bytes that mke2fs counts in."""
_PATIENCE = 600


def base(programs: Sequence[str], busybox: bytes, added: Sequence[Path] = ()) -> list[Entry]:
    """Entries of a root file system: `programs` are busybox's; `added` files go to /bin.

    Raises `NoInputError`, `ImageError` for a program that is not static.
    """
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in _FOLDERS]
    # The first process's descriptors 0, 1 and 2, before there is a devtmpfs.
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(_program("bin/busybox", busybox))
    links = {f"sbin/{name}" for name in _IN_SBIN} | {f"bin/{name}" for name in programs}
    entries += [
        Entry(name, stat.S_IFLNK | 0o777, b"/bin/busybox")
        for name in sorted(links - {"bin/busybox"})
    ]
    entries += [_program(f"etc/{name}", _own(name)) for name in ("rc", "session", "dhcp")]
    entries.append(Entry("etc/inittab", stat.S_IFREG | 0o644, _INITTAB.encode()))
    entries.append(Entry("etc/hostname", stat.S_IFREG | 0o644, b"guest\n"))
    # The root file system may be read-only.
    entries.append(Entry("etc/resolv.conf", stat.S_IFLNK | 0o777, b"/tmp/resolv.conf"))
    entries.append(_program("etc/acpi/PWRF/00000080", _POWER_BUTTON.encode()))
    for path in added:
        entries.append(_program(f"bin/{path.name}", _added(path)))
    return entries


def _added(path: Path) -> bytes:
    attempt = f"add {path}"
    try:
        # A FIFO would be waited for, a device read without end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise NoInputError(attempt, "it is no regular file", "give a program or a script")
        data = path.read_bytes()
    except OSError as error:
        raise NoInputError(attempt, error.strerror or str(error)) from error
    if _is_dynamic(data):
        raise ImageError(attempt, "it needs libraries that the guest has not", "link it statically")
    return data


def _is_dynamic(program: bytes) -> bool:
    # One that needs a dynamic linker names it, by its program headers.
    return program.startswith(b"\x7fELF") and b"/ld-linux" in program[:4096]


def with_modules(release: str, found: Iterable[modules.Module]) -> list[Entry]:
    """Entries of /lib/modules for the kernel `release`, with what modprobe needs."""
    folder = f"lib/modules/{release}"
    return [
        Entry(folder, stat.S_IFDIR | 0o755),
        *(
            Entry(f"{folder}/{name}", stat.S_IFREG | 0o644, data)
            for name, data in modules.tables(found).items()
        ),
    ]


def initramfs(entries: Sequence[Entry]) -> bytes:
    """The archive that a kernel unpacks, not compressed: the kernel has it sooner so."""
    return archive((*entries, _program("init", _own("init"))))


def busybox() -> tuple[bytes, list[str]]:
    """This machine's busybox, which must be static, and its programs. Raises `HostLacksError`."""
    attempt = "make a root file system"
    for path in BUSYBOX:
        try:
            data = path.read_bytes()
            done = subprocess.run(
                [path, "--list"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_PATIENCE, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            continue
        if _is_dynamic(data):
            raise HostLacksError(
                attempt, f"{path} needs libraries that the guest has not", "install busybox-static"
            )
        return data, done.stdout.split()
    raise HostLacksError(attempt, "this host has no busybox", "install busybox-static")


def check_disk_size(size: int) -> None:
    """Raise `UsageError` for a size in bytes that no disk is made with."""
    if not SHORTEST_DISK <= size <= LONGEST_DISK or size % _BLOCK:
        raise UsageError(
            f"make a disk of {size} bytes",
            f"it is {size_text(SHORTEST_DISK)} to {size_text(LONGEST_DISK)}, by 4K",
        )


def write_disk(path: Path, size: int, entries: Iterable[Entry]) -> None:
    """Write an ext4 file system of `size` bytes with `entries`, and have it be `path`.

    What was there before stays as it is for who has it open: a guest that runs on it. Raises
    `UsageError`, `HostLacksError`, `SystemCallError`, and `path` is what it was then.
    """
    attempt = f"make the disk {path}"
    check_disk_size(size)
    # mke2fs is in a folder that is not on everybody's path.
    tool = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if tool is None:
        raise HostLacksError(attempt, "this host has no mke2fs", "install e2fsprogs")
    new = path.with_name(f".{path.name}.new")
    try:
        _write_new_disk(tool, new, size, entries, attempt)
        new.replace(path)
    except OSError as error:
        raise system_call_error(attempt, error) from error
    finally:
        with suppress(OSError):
            new.unlink()


def _write_new_disk(
    tool: str, new: Path, size: int, entries: Iterable[Entry], attempt: str
) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="pyvmm-disk-") as folder:
            _lay_out(Path(folder), entries)
            new.write_bytes(b"")
            os.truncate(new, size)
            done = subprocess.run(
                [tool, "-q", "-F", "-t", "ext4", "-L", "pyvmm", "-E", "root_owner=0:0",
                 "-d", folder, str(new)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
                check=False, errors="replace", env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
    except subprocess.SubprocessError as error:
        raise HostLacksError(attempt, str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise HostLacksError(attempt, f"mke2fs failed: {said}", "give a larger --disk")


def _lay_out(folder: Path, entries: Iterable[Entry]) -> None:
    for entry in entries:
        path = folder / entry.name
        if stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.data.decode())
        elif stat.S_ISREG(entry.mode):
            path.write_bytes(entry.data)
            path.chmod(stat.S_IMODE(entry.mode))


def _own(name: str) -> bytes:
    return (_HERE / name).read_bytes()


def _program(name: str, data: bytes) -> Entry:
    return Entry(name, stat.S_IFREG | 0o755, data)
