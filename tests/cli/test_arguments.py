# SPDX-License-Identifier: MIT
"""Names and numbers of every kind, at every place that takes one: an exit code and one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.cli.main import main

from . import flat
from .command import pyvmm

NAMES = [
    b"a\xff\xfe", b"two\nlines", b"\"quotes'`$x", b"\x1b[31mred", b"\x01\x7f\x9b", "é€𝄞".encode(),
    b"n" * 255, b"n" * 256, b"d/" * 2000 + b"x", b"d/" * 2048, b"", b" ", b"a\tb",
    b".", b"..", b"/", b"no/such", b"no-such/",
    b"{0}%s%(a)s", b"[red]x[/]", b"@x", b"-x", b"--json", b"--",
]  # fmt: skip

PLACES: list[tuple[str, ...]] = [
    ("run", "--", "{}"),
    ("run", "{}"),
    ("run", "exit", "--initrd={}"),
    ("run", "exit", "--json={}", "--cpus", "0"),
    ("run", "exit", "--console=file:{}", "--cpus", "0"),
    ("run", "exit", "--console=unix:{}", "--cpus", "0"),
    ("run", "exit", "--qmp=unix:{}", "--cpus", "0"),
    ("run", "exit", "--host={}"),
    ("run", "exit", "--expect-digest={}"),
    ("measure", "--", "{}"),
    ("measure", "exit", "--initrd={}"),
    ("lifetime", "show", "--", "{}"),
    ("lifetime", "show", "no-such-scenario", "--svg={}"),
    ("lifetime", "replay", "--", "{}"),
    ("lifetime", "report", "--check", "--", "{}"),
    ("lifetime", "pictures", "--check", "--", "{}"),
    ("lifetime", "explore", "--universe={}"),
    ("lifetime", "attack", "--remedy={}"),
    ("lifetime", "explore", "--design={}"),
    ("lifetime", "explore", "--remedy={}"),
    ("lifetime", "explore", "--interleave=2", "--drop={}"),
    ("lifetime", "explore", "--json={}", "--design=no-such"),
    ("compare", "--runs=1001", "--", "{}"),
    ("compare", "exit", "--host={}"),
    ("compare", "exit", "--qemu={}"),
    ("compare", "no-such", "--input={}"),
    ("matrix", "--", "{}"),
    ("matrix", "no-such.toml", "--only={}"),
    ("matrix", "no-such.toml", "--cluster={}", "--limit=0"),
    ("matrix", "no-such.toml", "--require={}"),
    ("matrix", "no-such.toml", "--artifacts={}"),
    ("matrix", "no-such.toml", "--html={}"),
    ("lab", "up", "--kernel={}", "--memory=0"),
    ("lab", "run", "--writable={}", "--kernel=/no/such", "--", "true"),
    ("lab", "build", "--jobs={}"),
    ("lab", "selftests", "--kernel={}", "no-such"),
    ("lab", "build", "--with={}"),
    ("lab", "build", "--name={}"),
    ("lab", "build", "--config={}"),
    ("{}",),
    ("--{}",),
]
"""Command lines that fail whatever the name: no such file is there, or something else is wrong."""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with nothing in it and no lab."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return folder


def fails_in_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> int:
    code = main(arguments)
    out, err = capfd.readouterr()
    assert code in (64, 65, 66, 69, 71, 77), (arguments, err)
    assert out == "", arguments
    assert err.startswith("pyvmm: "), arguments
    assert err.removesuffix("\n").isprintable(), (arguments, err)
    return code


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_names(place: tuple[str, ...], empty: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in map(os.fsdecode, NAMES):
        if name == "" and place[-1] in ("{}", "--{}") and place[0] != "run":
            continue  # Nothing at all, or the end of the options.
        fails_in_one_line([part.replace("{}", name) for part in place], capfd)
        assert not list(empty.iterdir()), name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300).filter(lambda name: b"\0" not in name),
    st.sampled_from([place for place in PLACES if place[0] in ("run", "lifetime", "lab")]),
)
def test_any_name(
    empty: Path, capfd: pytest.CaptureFixture[str], name: bytes, place: tuple[str, ...]
) -> None:
    text = os.fsdecode(b"no-such/" + name)
    fails_in_one_line([part.replace("{}", text) for part in place], capfd)
    assert not list(empty.iterdir())


@pytest.mark.kvm
@pytest.mark.parametrize("name", [name for name in NAMES[:7] if b"/" not in name])
def test_files_of_such_names_are_read_and_written(
    name: bytes, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(name))
    path.write_bytes(flat.exiting(3))
    told, said = Path("told"), Path("said")
    told.mkdir()
    said.mkdir()
    arguments = ["--json", str(told / path), "--console", f"file:{said / path}"]
    assert main(["run", str(path), *arguments]) == 3
    assert capfd.readouterr() == ("", "")
    assert (told / path).read_bytes().startswith(b"{")
    assert (said / path).read_bytes() == b""


NOT_NUMBERS = [
    "nan", "inf", "-inf", "infinity", "\u0663", "\uff11", "1_0", "+1", " 1", "1 ", "0x10", "", "--",
    "1e", "1,5", "1" * 5000, "9" * 30, "-1", "-0",
]  # fmt: skip
COUNTS: list[tuple[str, ...]] = [
    ("run", "exit", "--cpus={}"),
    ("run", "exit", "-m{}B"),
    ("compare", "exit", "--cpus={}"),
    ("compare", "exit", "--runs={}", "--timeout=0"),
    ("matrix", "no-such.toml", "--jobs={}", "--limit=0"),
    ("matrix", "no-such.toml", "--limit={}", "--jobs=0"),
    ("lab", "up", "--cpus={}", "--memory=0"),
    ("lab", "up", "--memory={}B"),
    ("lab", "build", "--jobs={}"),
    ("lab", "selftests", "--jobs={}", "--limit=0"),
    ("lab", "selftests", "--limit={}", "--jobs=0"),
    ("lifetime", "replay", "--count={}", "no-such"),
    ("lifetime", "attack", "--vms={}"),
    ("lifetime", "explore", "--interleave={}"),
    ("lifetime", "explore", "--universe=vms={}"),
]


@pytest.mark.parametrize("place", COUNTS, ids=" ".join)
def test_what_is_no_count(
    place: tuple[str, ...], empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for text in (*NOT_NUMBERS, "1e400", "2.5", "1e3"):
        code = fails_in_one_line([part.replace("{}", text) for part in place], capfd)
        assert code == 64 or text in ("-0", "9" * 30), (text, code)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_what_is_no_time(command: str, empty: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for text in (*NOT_NUMBERS, "1e400", "-1e400", "1e-400", "0", "0.0", "."):
        if text == "9" * 30:
            continue  # A long time, but one.
        assert fails_in_one_line([command, "exit", f"--timeout={text}"], capfd) == 64, text


@pytest.mark.kvm
@pytest.mark.parametrize("text", ["5", "5.", ".5e1", "500e-2", "1E9", "9" * 30])
def test_what_is_a_time(text: str) -> None:
    assert main(["run", "exit", "--timeout", text]) == 0


GONE = [
    (("run", "exit", "--append", "5"), 5),
    (("run", "no-such"), 66),
    (("run", "exit", "--json", "x"), 64),
    (("run", "exit", "--console", "unix:x"), 64),
    (("guests",), 0),
    (("measure", "exit"), 0),
    (("lifetime", "show", "no-such", "--svg", "x"), 64),
    (("lab", "run", "--", "true"), 66),
    (("lab", "run", "--writable", ".", "--", "true"), 66),
    (("lab", "up"), 66),
    (("lab", "up", "--kernel", "./x"), 66),
    (("lab", "build", "--source", "x"), 66),
    (("lab", "selftests"), 66),
    (("run", "exit", "--host", "lab"), 66),
]


@pytest.mark.kvm
@pytest.mark.parametrize(("arguments", "code"), GONE)
def test_in_a_folder_that_has_been_removed(
    arguments: tuple[str, ...], code: int, empty: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty.rmdir()
    try:
        assert main(list(arguments)) == code
    finally:
        os.chdir("/")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == (code >= 64)


@pytest.mark.slow
def test_an_option_may_not_have_the_end_of_options_as_its_value() -> None:
    outcome = pyvmm("run", "exit", "--timeout=--")
    assert (outcome.code, outcome.lines) == (
        64,
        ["pyvmm: argument --timeout: '--' is no value; see pyvmm run --help"],
    )
