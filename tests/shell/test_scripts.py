# SPDX-License-Identifier: MIT
"""Scripts of the shell: names at hand, exit codes, and what is said of errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import main
from tests.cli.command import pyvmm


def run(tmp_path: Path, source: str, *options: str) -> int:
    """Run a script on the model, with two arguments; the exit code."""
    script = tmp_path / "script.py"
    script.write_text(source)
    return main(["shell", "--host", "model", *options, str(script), "one", "--two"])


def test_a_script_has_the_names_and_its_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import sys\n"
        "memory[0x1000:0x1003] = b'abc'\n"
        "memory.convert(0x2000, PAGE_SIZE, private=True)\n"
        "print(memory[0x1000:0x1003], sys.argv[1:], __name__)\n"
        "page_map()\n"
    )
    assert run(tmp_path, source, "--private") == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, *lines = out.splitlines()
    assert first == "b'abc' ['one', '--two'] __main__"
    assert lines[3:] == [
        "0000000000-0000001fff      8 KiB  shared    held: 4 KiB shared",
        "0000002000-0000002fff      4 KiB  private   held: 0 private",
        "0000003000-00001fffff   2036 KiB  shared    held: 0 shared",
    ]


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('no more')", 1, "no more\n"),
        ("\nvm.set_memory_attributes(1, 2, 8)", 71, "script.py:2: cannot set the attributes"),
        ("memory.read(-1, 1)", 64, "script.py:1: cannot reach 1 bytes at GPA -0x1"),
        ("def f():\n  vcpu.kick(1)\n\nf()", 1, ", line 2, in f\n    vcpu.kick(1)\nTypeError"),
        ("1 +", 1, "SyntaxError"),
        ("raise BaseException('own')", 1, "BaseException: own\n"),
        ("raise GeneratorExit", 1, "GeneratorExit\n"),
        ("bench.close()\nmemory.read(0, 1)", 71, "script.py:2: cannot reach 1 bytes at GPA 0x0"),
        ("import sys\nsys.stdout = sys.stderr = None", 0, ""),
        ("import io, sys\nsys.stderr = io.StringIO()\n1 / 0", 1, ""),
    ],
    ids=[
        "exit",
        "message",
        "refusal",
        "usage",
        "in a function",
        "syntax",
        "base",
        "generator",
        "closed",
        "no streams",
        "own stream",
    ],
)
def test_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, code: int, says: str
) -> None:
    assert run(tmp_path, source) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "pyvmm/shell" not in err
    assert bool(err) == bool(says)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        ("<&-", 0, ""),
        ("</dev/null", 0, ""),
        (">/dev/full <<'E'\nprint('x', flush=True)\nE", 71, "No space left on device"),
        (">/dev/full <<'E'\nprint('x' * 100000)\nE", 71, "No space left on device"),
        ("</dev/zero", 64, "cannot run <stdin>: it is longer than 16 MiB, and no script"),
        ("<<'E'\nimport sys\nsys.stdout.close()\nE", 0, ""),
        ("<<'E'\nimport sys\nsys.stderr.close()\n1 / 0\nE", 1, ""),
    ],
    ids=[
        "input closed",
        "input empty",
        "output full",
        "much output full",
        "input without an end",
        "closes output",
        "closes errors",
    ],
)
def test_standard_input_is_the_script(redirection: str, code: int, says: str) -> None:
    command = f'exec "$@" {redirection}'
    done = pyvmm("shell", "--host", "model", prefix=("sh", "-c", command, "sh"))
    assert (done.code, len(done.lines)) == (code, bool(says))
    assert says in "".join(done.lines)


def test_a_script_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "/dev/zero"]) == 64
    said = "pyvmm: cannot run /dev/zero: it is longer than 16 MiB, and no script\n"
    assert capsys.readouterr().err == said


def test_a_script_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "none.py"]) == 66
    assert capsys.readouterr().err == "pyvmm: cannot run none.py: No such file or directory\n"
