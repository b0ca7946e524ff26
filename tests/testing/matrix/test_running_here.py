# SPDX-License-Identifier: MIT
"""The boots of a matrix on this machine: each is done once, whatever becomes of what does them."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from pyvmm.errors import NoInputError
from pyvmm.testing.matrix.jobs import ImageFiles
from pyvmm.testing.matrix.matrix_file import parse_matrix
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict
from pyvmm.testing.matrix.running_here import run_here
from tests.cli.command import state
from tests.testing.matrix.fake_boots import command

pytestmark = pytest.mark.slow  # processes


def planned(text: str, folder: Path) -> tuple[list[Boot], ImageFiles]:
    matrix = parse_matrix(text, "m.toml")
    files = ImageFiles()
    files.read(matrix, folder)
    return list(matrix.boots()), files


def run(
    text: str, folder: Path, *, at_once: int = 2, patience: float = 60.0
) -> tuple[list[Boot], list[BootResult]]:
    boots, files = planned(text, folder)
    results: list[BootResult] = []

    async def main() -> None:
        await run_here(boots, files, at_once, results.append, command=command, patience=patience)

    trio.run(main)
    return boots, results


def image(name: str, append: str, more: str = "") -> str:
    return f"[[image]]\npath = 'an.img'\nname = '{name}'\nappend = '{append}'\n{more}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "an.img").write_bytes(b"image of a guest")
    return tmp_path


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_boot_is_done_once_by_few_processes_that_are_gone_then(folder: Path) -> None:
    log = folder / "log"
    text = "hosts = ['kvm', 'model']\nmemory = ['2M', '3M', '4M', '5M']\n"
    boots, results = run(text + image("a", f"count {log}") + image("b", "fail"), folder)
    assert Counter(one.key for one in results) == Counter(boot.key for boot in boots)
    assert Counter(one.verdict for one in results) == {Verdict.PASSED: 8, Verdict.FAILED: 8}
    done = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert done == Counter(boot.key for boot in boots if boot.image.name == "a")
    assert {one.console for one in results} == {b"imag"}
    processes = {int(one.by_hand) for one in results}
    assert 1 <= len(processes) <= 2
    assert not any(map(is_running, processes))


def test_a_boot_whose_process_dies_is_done_by_another(folder: Path) -> None:
    log = folder / "log"
    text = "hosts = 'kvm'\n" + image("a", f"die {log} 1") + image("b", "") + image("c", "")
    _, results = run(text, folder)
    assert {one.key.partition("/")[0]: (one.verdict, one.attempts) for one in results} == {
        "a": (Verdict.PASSED, 2), "b": (Verdict.PASSED, 1), "c": (Verdict.PASSED, 1),
    }  # fmt: skip
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2


def test_a_boot_that_takes_each_process_along_is_lost_and_the_others_go_on(folder: Path) -> None:
    log = folder / "log"
    text = "hosts = 'kvm'\n" + image("a", f"die {log} 99") + image("b", "")
    _, results = run(text, folder, at_once=1)
    lost, passed = results
    assert (lost.verdict, lost.attempts) == (Verdict.LOST, 3)
    assert lost.reason == "its process was ended by SIGKILL: it dies"
    assert passed.verdict is Verdict.PASSED
    assert len(log.read_text().splitlines()) == 3


def test_a_process_that_does_not_answer_is_ended(folder: Path) -> None:
    text = "hosts = 'kvm'\ntimeout = 0.1\n" + image("a", f"hang {folder / 'log'}")
    ((result),) = run(text, folder, patience=0.1)[1]
    assert result.verdict is Verdict.LOST
    assert result.reason == "its process has not answered for 0.2 s"


def test_cancelled_it_ends_what_runs_and_tells_nothing_of_it(folder: Path) -> None:
    boots, files = planned(
        "hosts = 'kvm'\n" + image("a", "") + image("b", f"hang {folder / 'log'}") + image("c", ""),
        folder,
    )
    results: list[BootResult] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            def tell(result: BootResult) -> None:
                results.append(result)
                nursery.cancel_scope.cancel()

            nursery.start_soon(lambda: run_here(boots, files, 1, tell, command=command))

    trio.run(main)
    (result,) = results
    assert result.key == "a/64M-1cpu-kvm"
    assert not is_running(int(result.by_hand))


def test_an_image_that_is_nowhere_is_told_by_its_name(folder: Path) -> None:
    with pytest.raises(NoInputError) as caught:
        planned("hosts = 'kvm'\n[[image]]\npath = 'no-such.img'\nname = 'x'\n", folder)
    assert str(caught.value).startswith("cannot read the image x: there is no file ")


def test_a_file_counts_before_a_bundled_guest(folder: Path) -> None:
    (folder / "exit").write_bytes(b"own")
    boots, files = planned(
        "hosts = 'kvm'\n[[image]]\npath = 'exit'\n[[image]]\npath = 'hello'\n", folder
    )
    own, bundled = map(files.job, boots)
    assert files.contents[own.image] == b"own"
    assert own.image_path == folder / "exit"
    assert len(files.contents[bundled.image]) > 1000
    assert (own.is_bundled, bundled.is_bundled) == (False, True)


def test_a_process_that_cannot_be_started_loses_its_boots_only(folder: Path) -> None:
    boots, files = planned("hosts = 'kvm'\n" + image("a", "") + image("b", ""), folder)
    results: list[BootResult] = []
    trio.run(
        partial(run_here, boots, files, 1, results.append, command=lambda: ["/no/such/program"])
    )
    assert [(one.verdict, one.attempts) for one in results] == [(Verdict.LOST, 3)] * 2
    assert {one.reason for one in results} == {
        "its process could not be started: No such file or directory"
    }


def test_no_temporary_folder_is_no_more_than_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    ((result),) = run("hosts = 'kvm'\n" + image("a", ""), folder)[1]
    assert result.reason == "its process could not be started: No space left on device"


def said_by(code: str, folder: Path) -> str:
    """The reason where the process that boots is a Python program."""
    boots, files = planned("hosts = 'kvm'\n" + image("a", ""), folder)
    results: list[BootResult] = []
    command = [sys.executable, "-c", f"import os, sys, struct, time; {code}"]
    trio.run(partial(run_here, boots, files, 1, results.append, command=lambda: command))
    assert results[0].verdict is Verdict.LOST
    return results[0].reason


def test_a_process_that_answers_with_something_else(folder: Path) -> None:
    taken_over = folder / "taken-over"
    attack = f"import os; os.mkdir({str(taken_over)!r})"
    said = said_by(
        f"import pickle; P = type('P', (), {{'__reduce__': lambda self: (exec, ({attack!r},))}}); "
        "x = pickle.dumps(P()); os.write(1, struct.pack('>Q', len(x)) + x); sys.stdin.read()",
        folder,
    )
    assert said.startswith("its process answered with what is no result (")
    assert not taken_over.exists()
    said = said_by(
        "from pyvmm.testing.matrix.result_bytes import to_bytes; "
        "from pyvmm.testing.matrix.results import BootResult, Verdict; "
        "x = to_bytes(BootResult('b/64M-1cpu-kvm', Verdict.PASSED)); "
        "os.write(1, struct.pack('>Q', len(x)) + x); sys.stdin.read()",
        folder,
    )
    assert said.endswith("(it is another boot's)")
    said = said_by("os.write(1, b'\\xff' * 8); sys.stdin.read()", folder)
    assert said.endswith("(it has 18446744073709551615 bytes, more than 67108864)")


def test_a_signal_without_a_name(folder: Path) -> None:
    assert said_by("os.kill(os.getpid(), 40)", folder) == "its process was ended by signal 40"


def test_a_group_is_ended_while_its_number_is_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str] = []
    real = os.killpg

    def killpg(pid: int, number: int) -> None:
        states.append(state(pid))
        real(pid, number)
        raise PermissionError

    monkeypatch.setattr(os, "killpg", killpg)
    _, results = run("hosts = 'kvm'\n" + image("a", ""), folder)
    assert results[0].verdict is Verdict.PASSED
    assert said_by("sys.exit(3)", folder) == "its process ended with 3"
    assert states == ["Z"] * 4
