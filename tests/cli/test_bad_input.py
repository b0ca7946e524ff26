# SPDX-License-Identifier: MIT
"""Whatever is wrong with a request: one line that says so, the right code, and nothing left over.

Each case runs twice: by a call within this process, where leaks can be seen, and as a process of
its own.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.boot.flat import MAX_SIZE as FLAT_MAX
from pyvmm.cli.main import main
from pyvmm.memory.layout import COMMAND_LINE_MAX

from ..boot.images import (
    ENTRY,
    Segment,
    elf,
    multiboot_2_header,
    multiboot_header,
    patch_header,
    patch_segment,
    pvh,
)
from ..boot.linux_images import bzimage, pe, zboot
from .command import Outcome, pyvmm


@dataclass(frozen=True)
class Case:
    """A request that must fail with `code`, naming `says`; `prepare` makes files in the cwd."""

    name: str
    code: int
    arguments: tuple[str, ...]
    says: str = ""
    prepare: Callable[[], object] | None = None
    kvm: bool = False


def image(data: bytes) -> Callable[[], object]:
    return lambda: Path("image").write_bytes(data)


def hello() -> bytes:
    guest = bundled_guests.find("hello")
    assert guest is not None, "the guests are not built: make guests"
    return guest.path.read_bytes()


def sparse(size: int) -> Callable[[], object]:
    def make() -> None:
        with Path("image").open("wb") as file:
            file.truncate(size)

    return make


def listening_socket_file() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("image")


def junk(size: int) -> bytes:
    return random.Random(1).randbytes(size)


RUN = ("run", "image")
SPIN = b"\xeb\xfe"

FILES = [
    Case("missing file", 66, RUN, "image: no such file"),
    Case("missing file in a missing directory", 66, ("run", "no/where"), "no such file"),
    Case("no name", 66, ("run", ""), "name is empty"),
    Case("directory with a bundled guest's name as a path", 66, ("run", "./hello"), "directory",
         lambda: Path("hello").mkdir()),
    Case("directory", 66, ("run", "/"), "directory"),
    Case("file as a directory", 66, ("run", "image/x"), "image/x", image(SPIN)),
    Case("very long name", 66, ("run", "x" * 5000), "too long"),
    Case("name with a newline", 66, ("run", "a\nb\rc\x1b[2Jd"), "no such file"),
    Case("/dev/zero", 66, ("run", "/dev/zero"), "no regular file"),
    Case("socket", 66, RUN, "image: it is a socket", listening_socket_file),
    Case("what cannot be read", 71, ("run", "/proc/self/mem"), "Input/output error"),
    Case("missing initrd", 66, ("run", "hello", "--initrd", "none"), "none: no such file"),
    Case("directory as initrd", 66, ("run", "hello", "--initrd", "/"), "directory"),
    Case("empty initrd", 65, ("run", "hello", "--initrd", "image"), "empty", image(b"")),
    Case("initrd larger than memory", 65, ("run", "hello", "-m2M", "--initrd", "image"),
         "larger than the guest's memory, 2097152 bytes", sparse(3 << 20)),
    Case("initrd that does not fit", 65, ("run", "hello", "-m2M", "--initrd", "image"),
         "initrd", sparse(2 << 20)),
]  # fmt: skip

IMAGES = [
    Case("empty file", 65, RUN, "empty", image(b"")),
    Case("junk", 65, RUN, "no ELF file", image(junk(FLAT_MAX + 1))),
    Case("much junk", 65, RUN, "no ELF file", image(junk(8 << 20))),
    Case("zeros", 65, RUN, "no ELF file", image(bytes(1 << 20))),
    Case("very large file of nothing", 65, RUN, "longer than raw code can be", sparse(1 << 40)),
    Case("very large ELF file", 65, RUN, "larger than 1 GiB",
         lambda: (image(pvh())(), os.truncate("image", (1 << 30) + 1))),
    Case("Multiboot 2", 65, RUN, "Multiboot 2 is not supported",
         image(multiboot_2_header() + bytes(64))),
    Case("only the magic", 65, RUN, "cut off", image(b"\x7fELF")),
    Case("wrong machine", 65, RUN, "", image(patch_header(pvh(), "e_machine", 183))),
    Case("wrong file type", 65, RUN, "", image(patch_header(pvh(), "e_type", 1))),
    Case("no PVH note", 65, RUN, "no PVH note", image(elf())),
    Case("entry outside the segments", 65, RUN, "no loaded segment",
         image(pvh(segments=[Segment(ENTRY + 0x1000)]))),
    Case("segment outside of RAM", 65, ("run", "image", "-m", "2M"), "outside the guest's 2 MiB",
         image(patch_segment(pvh(), 1, "p_memsz", 4 << 20))),
    Case("segment of 2**64 bytes", 65, RUN, "",
         image(patch_segment(pvh(), 1, "p_memsz", (1 << 64) - 1))),
    Case("segment in the MMIO hole", 65, RUN, "MMIO hole",
         image(patch_segment(pvh(), 1, "p_paddr", 0xD000_0000))),
    Case("segment over another", 65, RUN, "overlaps",
         image(pvh(segments=[Segment(ENTRY), Segment(ENTRY)]))),
    Case("no room for tables", 65, ("run", "image", "-m", "2M"), "leaves no room for",
         image(pvh(segments=[Segment(0, bytes(0x9FC00)), Segment(ENTRY, bytes(1 << 20))]))),
    Case("program headers beyond the end", 65, RUN, "beyond the end",
         image(patch_header(pvh(), "e_phoff", 1 << 40))),
    Case("bzImage before 2.06", 65, RUN, "bzImage 2.04 (before 2.06)",
         image(bzimage(version=0x204))),
    Case("bzImage that is cut", 65, RUN, "bzImage that is cut", image(bzimage()[:2000])),
    Case("bzImage in too little memory", 65, ("run", "image", "-m", "16M"), "give --memory 20M",
         image(bzimage())),
    Case("line longer than a bzImage takes", 64, ("run", "image", "--append", "x" * 101),
         "the image takes 100 at most", image(bzimage(cmdline_size=100))),
    Case("entry that a bzImage has not", 64, ("run", "image", "--entry", "64"),
         "has no 64-bit entry", image(bzimage(xloadflags=0))),
    Case("entry that an ELF file has not", 64, ("run", "hello", "--entry", "16"),
         "an ELF file, which has no 16-bit entry"),
    Case("bzImage in private memory", 65, ("run", "image", "--private"), "no entry for that",
         image(bzimage())),
    Case("backing of private memory without any", 64,
         ("run", "hello", "--private-backing", "in-place"), "give --private as well"),
    Case("kernel for arm64", 65, RUN, "Linux's Image for arm64",
         image(bytes(0x38) + b"ARM\x64" + bytes(700_000))),
    Case("unified kernel image", 65, RUN, "give the .linux section",
         image(pe(sections=(b".osrel", b".linux")))),
    Case("zboot for arm64", 65, RUN, "EFI zboot image for arm64, not x86-64",
         image(zboot(b"", 0xAA64))),
    Case("Multiboot without addresses", 65, RUN, "", image(multiboot_header() + bytes(64))),
]  # fmt: skip

TRUNCATED_AT = (4, 15, 16, 40, 63, 64, 100, 200, 400, 0x1000, 0x2001, 0x5000)


def truncated(size: int) -> Callable[[], object]:
    return lambda: Path("image").write_bytes(hello()[:size])


TRUNCATIONS = [
    Case(f"cut at {size}", 65, RUN, "boot image", truncated(size)) for size in TRUNCATED_AT
]

NUMBERS = [
    Case(f"{option} {value}", code, ("run", "hello", option, value), says)
    for option, value, code, says in (
        ("-m", "2097153B", 64, "page size"),
        ("-m", "1M", 64, "minimum"),
        ("-m", "0", 64, "minimum"),
        ("-m", "4096B", 64, "minimum"),
        ("-m", "-5M", 64, "-m"),
        ("-m", "", 64, "-m"),
        ("-m", "M", 64, "no size"),
        ("-m", "256iB", 64, "no size"),
        ("-m", "256i", 64, "no size"),
        ("-m", "256\N{KELVIN SIGN}", 64, "no size"),
        ("-m", "256BB", 64, "no size"),
        ("-m", "256MK", 64, "no size"),
        ("-m", "lots", 64, "no size"),
        ("-m", "1e3", 64, "no size"),
        ("-m", "0x10M", 64, "no size"),
        ("-m", "1.5G", 64, "no size"),
        ("-m", "٣M", 64, "no size"),
        ("-m", "9" * 400, 64, "no size"),
        ("--cpus", "0", 64, "at least one"),
        ("--cpus", "-1", 64, "at least one"),
        ("--cpus", "256", 64, "255"),
        ("--cpus", "9" * 100, 64, "whole number"),
        ("--cpus", "two", 64, "--cpus"),
        ("--cpus", "1.0", 64, "--cpus"),
        ("--timeout", "0", 64, "above 0"),
        ("--timeout", "-1", 64, "above 0"),
        ("--timeout", "nan", 64, "no number of seconds"),
        ("--timeout", "inf", 64, "no number of seconds"),
        ("--timeout", "1e999", 64, "above 0"),
        ("--timeout", "soon", 64, "--timeout"),
    )
] + [
    Case("more memory than any host", 69, ("run", "hello", "-m", "100T"), "memory", kvm=True),
    Case("more memory than fits 64 bits", 69, ("run", "hello", "-m", "9" * 18 + "T"), "memory",
         kvm=True),
    Case("CPUs without interrupt controllers", 64,
         ("run", "hello", "--cpus", "2", "--irqchip", "off"), "--irqchip"),
]  # fmt: skip

WORDS = [
    Case("no command", 64, (), "--help"),
    Case("unknown command", 64, ("walk",), "walk"),
    Case("command cut short", 64, ("ru", "hello"), "ru"),
    Case("no image", 64, ("run",), "IMAGE"),
    Case("two images", 64, ("run", "hello", "hello"), "hello"),
    Case("unknown option", 64, ("run", "hello", "--fast"), "--fast"),
    Case("option cut short", 64, ("run", "hello", "--mem", "2M"), "--mem"),
    Case("option without a value", 64, ("run", "hello", "--timeout"), "--timeout"),
    Case("unknown option before the command", 64, ("--fast", "run", "hello"), "--fast"),
    Case("unknown option of guests", 64, ("guests", "--fast"), "--fast"),
    Case("unknown host", 64, ("run", "hello", "--host", "xen"), "xen"),
    Case("long command line", 64, ("run", "hello", "--append", "x" * COMMAND_LINE_MAX),
         f"{COMMAND_LINE_MAX} bytes"),
    Case("command line for raw code", 64, ("run", "image", "--append", "x"), "raw code",
         image(SPIN)),
    Case("initrd for raw code", 64, ("run", "image", "--initrd", "image"), "raw code",
         image(SPIN)),
]  # fmt: skip


def socket_with_a_listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


PLACES = [
    Case("console: unknown", 64, ("run", "hello", "--console", "printer"), "printer"),
    Case("console: file: without a path", 64, ("run", "hello", "--console", "file:"), "file:"),
    Case("console: unix: without a path", 64, ("run", "hello", "--console", "unix:"), "unix:"),
    Case("console: file in a missing directory", 64,
         ("run", "hello", "--console", "file:no/out"), "no/out"),
    Case("console: directory as a file", 64, ("run", "hello", "--console", "file:/"), "directory"),
    Case("console: socket in a missing directory", 64,
         ("run", "hello", "--console", "unix:no/sock"), "no/sock"),
    Case("console: socket in the place of a file", 64,
         ("run", "hello", "--console", "unix:image"), "exists", image(b"precious")),
    Case("console: socket in the place of a directory", 64,
         ("run", "hello", "--console", "unix:/"), "exists"),
    Case("console: socket in the place of a dangling link", 64,
         ("run", "hello", "--console", "unix:link"), "exists",
         lambda: Path("link").symlink_to("nowhere")),
    Case("console: very long socket name", 64,
         ("run", "hello", "--console", "unix:" + "x" * 108), "too long"),
    *(
        Case(f"{option[0]} {option[1]}: {kind}", 71, ("run", "hello", *option), says, prepare)
        for option in (("--json", "out"), ("--console", "file:out"))
        for kind, says, prepare in (
            ("a FIFO without a reader",
             "to out: it is a FIFO that nobody reads; start its reader first",
             lambda: os.mkfifo("out")),
            ("a socket", "to out: it is a socket, or a device that is not there; name another file",
             lambda: socket_with_a_listener("out").close()),
        )
    ),
    Case("json: missing directory", 64, ("run", "hello", "--json", "no/out.json"), "no/out.json"),
    Case("json: directory", 64, ("run", "hello", "--json", "/"), "directory"),
    Case("json: file as a directory", 64, ("run", "hello", "--json", "image/x"), "image/x",
         image(b"precious")),
    Case("json: where the console goes", 64,
         ("run", "hello", "--console", "file:out", "--json", "./out"), "console would go there"),
    Case("json: where the console goes, a file that is there", 64,
         ("run", "hello", "--console", "file:link", "--json", "image"), "console would go there",
         lambda: (Path("link").symlink_to("image"), Path("image").write_bytes(b"precious"))),
    Case("bad image, console to a file", 65, ("run", "image", "--console", "file:out"), "",
         image(elf())),
    Case("bad image, console to a socket", 65, ("run", "image", "--console", "unix:sock"), "",
         image(elf())),
    Case("bad image, result to a file", 65, ("run", "image", "--json", "out.json"), "",
         image(elf())),
]  # fmt: skip

CASES = [*FILES, *IMAGES, *TRUNCATIONS, *NUMBERS, *WORDS, *PLACES]


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def tree() -> dict[str, object]:
    """Every file below the working directory, and what is in it."""
    found: dict[str, object] = {}
    for path in sorted(Path().rglob("*")):
        status = path.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 24
        found[str(path)] = path.read_bytes() if small else (status.st_mode, status.st_size)
    return found


def held() -> tuple[list[str], int, set[int]]:
    """What this process holds: files (by what they are), threads, children."""
    files = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            files.append(str(entry.readlink()))
        except OSError:
            continue  # the one that iterdir used
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    # Trio keeps idle threads for a while: those of tests before may end meanwhile.
    threads = [one for one in threading.enumerate() if not one.name.startswith("Trio")]
    return sorted(files), len(threads), set(map(int, children))


def assert_refused(outcome: Outcome, case: Case) -> None:
    assert "Traceback" not in outcome.err
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.err.startswith("pyvmm: ")
    assert outcome.err.endswith("\n")
    assert outcome.err[:-1].isprintable()
    assert case.says in outcome.err
    assert "internal error" not in outcome.err
    assert outcome.code == case.code, outcome.err
    assert outcome.out == b""


def parameters(*marks: pytest.MarkDecorator) -> list[object]:
    return [
        pytest.param(
            case,
            id=case.name,
            marks=[
                *marks,
                *([pytest.mark.kvm] * case.kvm),
            ],
        )
        for case in CASES
    ]


@pytest.mark.parametrize("case", parameters())
def test_refused_by_a_call(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    if case.prepare is not None:
        case.prepare()
    files, before = tree(), held()
    code = main(list(case.arguments))
    out, err = capfd.readouterr()
    assert_refused(Outcome(code, out.encode(), err), case)
    assert tree() == files
    assert held() == before


@pytest.mark.slow
@pytest.mark.parametrize("case", parameters())
def test_refused_as_a_process(case: Case) -> None:
    if case.prepare is not None:
        case.prepare()
    files = tree()
    assert_refused(pyvmm(*case.arguments), case)
    assert tree() == files


def test_case_names_differ() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_zero_byte_in_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    # No argument of a process can have one.
    code = main(["run", "hello", "--append", "a\0b"])
    out, err = capfd.readouterr()
    assert (code, out, len(err.splitlines())) == (64, "", 1)
    assert "zero byte" in err


def test_cut_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    # From 4 bytes on: less than an ELF file's magic is code.
    whole = hello()
    sizes = {*range(4, 64, 3), *random.Random(2).sample(range(64, len(whole) // 2), 60)}
    wrong = {}
    for size in sorted(sizes):
        Path("image").write_bytes(whole[:size])
        code = main(["run", "image", "--console", "none"])
        err = capfd.readouterr().err
        if code != 65 or len(err.splitlines()) != 1:
            wrong[size] = (code, err)
    assert not wrong


@pytest.mark.kvm
def test_more_memory_than_is_free(capfd: pytest.CaptureFixture[str]) -> None:
    meminfo = Path("/proc/meminfo").read_text()
    total = next(int(line.split()[1]) for line in meminfo.splitlines() if "MemTotal" in line)
    code = main(["run", "image", "-m", f"{total + 4 - total % 4}K"])
    assert code == 66  # the image is looked for first
    Path("image").write_bytes(hello())
    capfd.readouterr()
    code = main(["run", "image", "-m", f"{total + 4 - total % 4}K", "--console", "none"])
    assert (code, len(capfd.readouterr().err.splitlines())) == (69, 1)


def test_socket_in_use_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with socket_with_a_listener("sock") as listener:
        code = main(["run", "hello", "--console", "unix:sock"])
        assert (code, len(capfd.readouterr().err.splitlines())) == (64, 1)
        listener.settimeout(10)
        listener.accept()[0].close()  # the question whether somebody listens
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("sock")
            listener.accept()[0].close()


def test_socket_in_use_whose_queue_is_full(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        listener.listen(0)
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                client.connect("sock")
        except BlockingIOError:
            pass
        try:
            code = main(["run", "hello", "--console", "unix:sock"])
        finally:
            for client in waiting:
                client.close()
    assert (code, len(capfd.readouterr().err.splitlines())) == (64, 1)


# What takes another user, or another /dev.


@pytest.fixture
def without_override() -> list[str]:
    """A prefix that runs a command which file modes bind, whoever the user is."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    # Root without these is an owner like any other; and it can still read this checkout.
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def in_own_mounts(script: str) -> list[str]:
    """A prefix that runs a command after `script`, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    inner = f'{script} && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-ec", inner, "sh"]
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no mount namespace to be had here: {probe.stderr.strip()}")
    return prefix


def test_unreadable_file(without_override: list[str], tmp_path: Path) -> None:
    secret = tmp_path / "image"
    secret.write_bytes(SPIN)
    secret.chmod(0)
    outcome = pyvmm("run", secret, prefix=without_override)
    assert_refused(outcome, Case("", 77, (), "permission denied"))


@pytest.mark.slow
def test_unwritable_places(without_override: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for option in (
        ("--console", f"file:{tmp_path}/out"),
        ("--console", f"unix:{tmp_path}/sock"),
        ("--json", f"{tmp_path}/out.json"),
    ):
        outcome = pyvmm("run", "hello", *option, prefix=without_override)
        assert_refused(outcome, Case("", 77, (), option[1].partition(":")[2] or option[1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]


@pytest.mark.kvm
@pytest.mark.slow
def test_forbidden_kvm(without_override: list[str], tmp_path: Path) -> None:
    stand_in = tmp_path / "kvm"
    stand_in.touch()
    stand_in.chmod(0)
    mounts = in_own_mounts(f"mount --bind {shlex.quote(str(stand_in))} /dev/kvm")
    prefix = [*mounts, *without_override]
    outcome = pyvmm("run", "--host", "kvm", "hello", prefix=prefix)
    assert_refused(outcome, Case("", 77, (), "/dev/kvm"))
    assert_runs_on_the_model(prefix)


def assert_runs_on_the_model(prefix: list[str]) -> None:
    """Left to itself, pyvmm takes the model, and says so in one line."""
    outcome = pyvmm("run", "exit", "--append", "9", prefix=prefix)
    assert outcome.code == 9
    (line,) = outcome.lines
    assert "model" in line


@pytest.mark.slow
def test_absent_kvm(tmp_path: Path) -> None:
    empty = tmp_path / "dev"
    empty.mkdir()
    (empty / "null").touch()
    where = shlex.quote(str(empty))
    mounts = in_own_mounts(
        f"mount --bind /dev/null {where}/null && mount --rbind {where} /dev && test -c /dev/null"
    )
    outcome = pyvmm("run", "--host", "kvm", "hello", prefix=mounts)
    assert_refused(outcome, Case("", 69, (), "/dev/kvm"))
    assert_runs_on_the_model(mounts)


@pytest.mark.kvm
@pytest.mark.slow
def test_something_else_called_kvm(tmp_path: Path) -> None:
    stand_in = tmp_path / "kvm"
    stand_in.write_bytes(b"not a device")
    mounts = in_own_mounts(f"mount --bind {shlex.quote(str(stand_in))} /dev/kvm")
    outcome = pyvmm("run", "--host", "kvm", "hello", prefix=mounts)
    assert outcome.code in (69, 71)
    assert_refused(outcome, Case("", outcome.code, (), ""))
    assert_runs_on_the_model(mounts)
    assert stand_in.read_bytes() == b"not a device"


@pytest.mark.parametrize("arguments", [("image",), ("hello", "--initrd", "image")])
def test_a_fifo_cannot_be_read_in_the_lab(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("image")
    assert main(["run", "--host", "lab", *arguments]) == 64
    assert "nobody can write to a FIFO in there" in capfd.readouterr().err
