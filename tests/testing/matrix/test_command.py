# SPDX-License-Identifier: MIT
"""``pyvmm matrix FILE``: what it prints, writes and ends with."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.testing.matrix import running_here
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict
from pyvmm.testing.matrix.running_here import Tell
from tests.cli.command import ENVIRONMENT, PYVMM, ending, finish, session_members, state, until

EXIT = """
hosts = ["model"]
memory = "16M"
[[image]]
path = "exit"
append = "9"
expect = { status = 9 }
"""
HELLO = '[[image]]\npath = "hello"\n'

PROGRESS = "pyvmm: boots "
"""Begins a line on standard error, on a machine where it all takes seconds."""
slow = pytest.mark.slow


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    path = Path("m.toml")
    path.write_text(EXIT)
    return path


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@slow
def test_all_of_it(matrix: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = "cpus = [1, 2]\n[[image]]\npath = 'panic'\n[[expect]]\nimages = 'panic'\nfails = 'so'\n"
    matrix.write_text(EXIT + HELLO + more)
    options = ["--json", "all.json", "--html", "all.html", "--artifacts", "all"]
    assert main(["matrix", "m.toml", *options]) == 0
    out, err = capfd.readouterr()
    assert not [line for line in err.splitlines() if not line.startswith(PROGRESS)]
    table = words(out)
    assert table[0] == ""
    assert table[1] == "image memory CPUs model"
    assert table[3].startswith("exit 16M 1 passed ")
    assert table[5].startswith("hello 16M 2 passed ")
    assert "panic/16M-1cpu-model: known failure: so (panicked" in out
    assert out.splitlines()[-1].endswith("3 passed, 1 known failure")
    assert "\x1b" not in out
    told = json.loads(Path("all.json").read_text())
    assert [boot["boot"] for boot in told["boots"]] == [
        "exit/16M-1cpu-model", "hello/16M-1cpu-model", "hello/16M-2cpu-model",
        "panic/16M-1cpu-model",
    ]  # fmt: skip
    assert told["as_expected"] is True
    page = Path("all.html").read_text()
    assert page.count('<a href="#hello-16M-2cpu-model">passed</a>') == 1
    assert "Hello from a pyvmm guest" in page
    said = Path("all/hello/16M-2cpu-model/console.log").read_bytes()
    assert said.startswith(b"Hello from a pyvmm guest\n")
    result = json.loads(Path("all/panic/16M-1cpu-model/result.json").read_text())
    assert result == next(
        {key: value for key, value in boot.items() if key in result}
        for boot in told["boots"]
        if boot["image"] == "panic"
    )


@slow
def test_what_is_not_as_expected_ends_with_1(
    matrix: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix.write_text(EXIT.replace("status = 9", "status = 8") + HELLO)
    assert main(["matrix", "m.toml"]) == 1
    out, _ = capfd.readouterr()
    assert "exit/16M-1cpu-model: FAILED: exited with 9, expected was 8\n" in out
    assert "by hand: pyvmm run exit --memory 16M --cpus 1 --host model --append 9" in out


@slow
def test_a_host_that_is_not_here(
    matrix: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_LAB_KERNEL", "/no/such/kernel")
    matrix.write_text(EXIT.replace('"model"', '"model", "lab"'))
    assert main(["matrix", "m.toml"]) == 0
    out, _ = capfd.readouterr()
    assert "exit/16M-1cpu-lab: skipped: cannot use the lab kernel /no/such/kernel" in out
    assert out.splitlines()[-1].endswith("1 passed, 1 skipped")
    assert main(["matrix", "m.toml", "--require", "lab", "--require", "model"]) == 1
    out, _ = capfd.readouterr()
    assert "exit/16M-1cpu-lab: FAILED: lab is required: cannot use the lab kernel" in out
    assert main(["matrix", "m.toml", "--only", "*-lab"]) == 69
    out, err = capfd.readouterr()
    assert "1 skipped" in out
    assert "pyvmm: cannot boot the matrix m.toml: none of its boots could run" in err


def test_the_list_boots_nothing_and_reads_no_image(
    matrix: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix.write_text(EXIT + HELLO.replace("hello", "no-such-image"))
    assert main(["matrix", "m.toml", "--list"]) == 0
    assert capfd.readouterr() == ("exit/16M-1cpu-model\nno-such-image/16M-1cpu-model\n", "")
    assert main(["matrix", "m.toml", "--list", "--only", "no*", "--only", "x"]) == 0
    assert capfd.readouterr() == ("no-such-image/16M-1cpu-model\n", "")


REFUSED = {
    ("--only", "exit"): (64, "has no such boot; pyvmm matrix --list m.toml prints those"),
    ("--jobs", "0"): (64, "cannot boot 0 guests at a time"),
    ("--limit", "0"): (64, "cannot boot up to 0 guests"),
    ("--require", "auto"): (64, "'auto' is none of model, kvm, lab, qemu-tcg, qemu-kvm"),
    ("--json", "m.toml"): (64, "cannot write the results to m.toml: it is the matrix, m.toml"),
    ("--json", "x", "--html", "x"): (64, "cannot write the page to x: the results would go"),
    ("--artifacts", "m.toml/x"): (64, "cannot write artifacts to m.toml/x: Not a directory; cho"),
    ("--artifacts", "/proc/x"): (64, "to /proc/x: No such file or directory; choose a path in a"),
    ("--artifacts", "m.toml"): (64, "cannot write artifacts to m.toml: it is no directory; choose"),
    ("--require", "kvm"): (64, "cannot require kvm: no boot of m.toml is on it; add it to the h"),
    ("--cluster", "nowhere"): (66, "cannot find the cluster nowhere"),
    ("--cluster", "m.toml"): (64, "cannot find the cluster by m.toml: the file names no sched"),
    ("--cluster", "tcp://x"): (64, "cannot find the cluster tcp://x: that is no address"),
    ("--cluster", "x:99999"): (66, "cannot find the cluster x:99999"),
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_refused_before_anything_is_booted(
    options: tuple[str, ...], matrix: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = REFUSED[options]
    assert main(["matrix", "m.toml", *options]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert matrix.read_text() == EXIT


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (EXIT.replace("memory", "memroy"), 64, "a key that is not known, 'memroy'; is memory m"),
        (EXIT.replace('hosts = ["model"]', ""), 64, "it has no hosts for the image exit"),
        (EXIT.replace('"exit"', '"no-such"'), 66, "cannot read the image no-such: there is no"),
        ("\xff", 64, "cannot read the matrix m.toml: it is no UTF-8 (byte 0)"),
        ("#" * (1 << 20) + "#", 65, "it is larger than a matrix file may be, 1048576 bytes"),
        (
            EXIT + "[[exclude]]\nimages = 'exit'\n", 64,
            "cannot boot the matrix m.toml: every combination is excluded",
        ),
        (
            EXIT + f"cpus = {list(range(1, 256))}\nmemory = {[f'{one}M' for one in range(2, 10)]}",
            64,
            "it has 2040 combinations, more than 1000; shorten its lists, or say --limit 2040",
        ),
    ],
)  # fmt: skip
def test_files_that_are_refused(
    text: str, code: int, said: str, matrix: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix.write_text(text, encoding="latin-1")
    assert main(["matrix", "m.toml"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_no_guest(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "no-such.toml"]) == 66
    assert capfd.readouterr().err == (
        "pyvmm: cannot read no-such.toml: no such file; give a path to a file\n"
    )


def test_results_are_reported_before_an_error_that_nobody_expected(
    matrix: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(boots: list[Boot], _: object, __: int, tell: Tell) -> None:
        tell(BootResult(boots[0].key, Verdict.PASSED))
        raise RuntimeError("a defect")

    monkeypatch.setattr(running_here, "run_here", broken)
    matrix.write_text(EXIT + HELLO)
    assert main(["matrix", "m.toml"]) == 70
    out, err = capfd.readouterr()
    assert out.endswith(": 1 passed, 1 NOT RUN\n")
    assert "RuntimeError: a defect" in err


def test_a_limit_that_is_raised_lets_it_be_listed(
    matrix: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix.write_text(EXIT + f"cpus = {list(range(1, 256))}\nmemory = {['2M', '3M', '4M', '5M']}")
    assert main(["matrix", "m.toml", "--list", "--limit", "1020"]) == 0
    assert capfd.readouterr().out.count("\n") == 1020


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_and_says_what_was_done(
    number: signal.Signals, matrix: Path
) -> None:
    matrix.write_text(EXIT + '[[image]]\npath = "hang"\n' + HELLO)
    process = subprocess.Popen(
        [*PYVMM, "matrix", "m.toml", "--jobs", "1", "--artifacts", "all", "--json", "all.json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    with ending(process):
        until(Path("all/exit/16M-1cpu-model/result.json").exists, "the first boot is over")
        (child,) = set(session_members(process.pid)) - {process.pid}
        process.send_signal(number)
        ended = finish(process)
    assert ended.code == 130
    assert ended.lines[-1] == f"pyvmm: interrupted by {number.name} after 1 of 3 boots"
    assert ended.out.decode().splitlines()[-1].endswith("1 passed, 2 NOT RUN")
    assert json.loads(Path("all.json").read_text())["counts"] == {"passed": 1, "NOT RUN": 2}
    assert session_members(process.pid) == []
    assert state(child) == ""
