# SPDX-License-Identifier: MIT
"""A host whose make, compiler and apt are small scripts: what they are asked, they write down."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pyvmm.lab.kernel import places
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.progress import Stage

BANNER = b"Linux version 7.3.4 (pyvmm@lab) (gcc) #1\0"
NOTE = struct.pack("<III", 4, 8, 18) + b"Xen\0" + bytes(8)

MAKE = r"""
objects= config= target= source= before=
for word; do
    [ "$before" = -C ] && source=$word
    before=$word
    case $word in
    O=*) objects=${word#O=} ;;
    KCONFIG_ALLCONFIG=*) config=${word#*=} ;;
    *=*|-*|/*) ;;
    *) target=$word ;;
    esac
done
echo "$target" >> "$FAKES/calls"
case $target in
allnoconfig)
    grep -v "${FAKE_DROPPED:-nothing}" "$config" | grep -v "# where known" > "$objects/.config" ;;
vmlinux)
    # Host tools are made anew where they were made elsewhere.
    mkdir -p "$objects/tools"
    if ! grep -qs "$source/tools" "$objects/tools/.tool.cmd"; then
        echo tools >> "$FAKES/tools-made"
        echo "gcc $source/tools/tool.c" > "$objects/tools/.tool.cmd"
    fi
    [ "$objects/one.o" -ot "$source/kernel/fork.c" ] && rm -f "$objects/one.o"
    for name in one two three four; do
        [ -e "$objects/$name.o" ] && continue
        if [ "$name" = "$FAKE_FAILS_AT" ]; then
            echo "$name.c:1:2: error: this is not C"
            echo "make: *** [Makefile:1: $name.o] Error 1"
            exit 2
        fi
        if [ "$name" = "$FAKE_HANGS_AT" ]; then
            echo $$ > "$FAKES/hanging"
            sleep 600
        fi
        echo "  CC      $name.o"
        : > "$objects/$name.o"
    done
    if grep -s "${FAKE_DISLIKED:-nothing}" "$source/kernel/fork.c" >> "$FAKES/disliked"; then
        echo "../kernel/fork.c:3:1: error: this is not liked"; exit 2
    fi
    cp "$FAKES/vmlinux" "$objects/vmlinux" ;;
esac
"""

GCC = r"""
case $1 in
--version) echo "${FAKE_GCC:-gcc (Fake) 12.2.0}" ;;
-E) [ "$5" != "$FAKE_NO_HEADER" ] ;;
esac
"""

APT_GET = r"""
echo "apt-get $*" >> "$FAKES/calls"
case "$*" in
*indextargets*) cat "$FAKES/targets" ;;
*update*)
    suite=$(sed -n 's/^Suites: //p' "$(dirname "$2")/sources.list.d/pyvmm.sources")
    echo "$suite" > "$FAKES/suite"
    if [ -e "$FAKES/update-fails" ]; then echo "E: Failed to fetch everything"; exit 100; fi ;;
*download*)
    cp "$FAKES/deb" "linux-source-7.3_7.3.4-1_all.deb" ;;
esac
"""

APT_CACHE = r"""
suite=$(cat "$FAKES/suite")
case "$*" in
*pkgnames*) echo linux-source-6.12; echo linux-source ;;
*linux-source-7.3)
    [ "$suite" = "$(cat "$FAKES/has")" ] || { echo "E: No packages found" >&2; exit 100; }
    cat "$FAKES/shown" ;;
*) exit 100 ;;
esac
"""


def fake_vmlinux(banner: bytes = BANNER, note: bytes = NOTE) -> bytes:
    """An ELF header of x86-64, and what tells a kernel that QEMU starts."""
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<H", head, 18, 62)
    return bytes(head) + banner + note


def fake_bzimage(release: bytes = b"6.18.2-mine") -> bytes:
    """A setup header with its version string."""
    data = bytearray(0x400)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x100)
    text = release + b" (me@here) #1\0"
    data[0x300 : 0x300 + len(text)] = text
    return bytes(data)


MAKEFILE = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\nNAME = Fake\n"


def source_tarball(extra: dict[str, str] | None = None) -> bytes:
    """A kernel's source, as small as can be, as a .tar.xz."""
    files = {"Makefile": MAKEFILE, "Kconfig": "", "kernel/fork.c": "", **(extra or {})}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"linux-source-7.3/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


@dataclass
class Said:
    """A `Progress` that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    stages: list[tuple[str, float | None]] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def reach(self, done: float) -> None:
        self.reached.append(done)

    @contextmanager
    def stage(self, title: str, total: float | None, unit: str) -> Iterator[Stage]:
        self.stages.append((title, total))
        yield self


@dataclass
class FakeHost:
    """Where the scripts keep what they know."""

    folder: Path

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def script(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fakes = tmp_path / "fakes"
    (fakes / "bin").mkdir(parents=True)
    fake = FakeHost(fakes)
    for name, body in (
        ("make", MAKE), ("gcc", GCC), ("apt-get", APT_GET), ("apt-cache", APT_CACHE),
        ("objcopy", 'cp "$2" "$3"'), ("flex", ""), ("bison", ""), ("bc", ""),
    ):  # fmt: skip
        fake.script(name, body)
    (fakes / "vmlinux").write_bytes(fake_vmlinux())
    (fakes / "targets").write_text("")
    monkeypatch.setenv("PATH", f"{fakes / 'bin'}:/usr/bin:/bin")
    # This make works anywhere, and the tests may run anywhere.
    monkeypatch.setattr(places, "_NOT_PLAIN", re.compile("(?!)"))
    monkeypatch.setenv("FAKES", str(fakes))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (
        "FAKE_DISLIKED",
        "FAKE_DROPPED",
        "FAKE_FAILS_AT",
        "FAKE_HANGS_AT",
        "FAKE_GCC",
        "FAKE_NO_HEADER",
    ):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache" / "pyvmm" / "lab")


@pytest.fixture
def said() -> Said:
    return Said()
