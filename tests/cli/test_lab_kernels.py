# SPDX-License-Identifier: MIT
"""``--kernel NAME``, of parity, replays and attacks: what labs have answered, side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pyvmm.cli import lab_kernels
from pyvmm.cli.main import main
from pyvmm.errors import ExitCode
from pyvmm.parity import running
from pyvmm.parity.table import Case, parse
from pyvmm.parity.verdicts import Answer, Outcome, Parity, Told, Verdict, differences, judge

SOME = running.cases()[:3]


def replayed(profile: str, *found: dict[str, object], **lacks: str) -> dict[str, object]:
    """What ``pyvmm lifetime replay --json`` prints."""
    result = {
        "name": "small",
        "sequences": 2,
        "steps": 9,
        "taken": 5,
        "transitions": 7,
        "differences": list(found),
    }
    return {
        "profile": profile,
        "results": [result],
        "failed_bindings": {},
        "not_replayable": lacks,
    }


DIFFERENCE = {"operations": [1, 2, 3], "step": 2, "what": "answer", "expected": "ok", "seen": "EIO"}


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of answers: of NAME the file NAME is printed, and NAME.code is the exit code."""
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\n"
        f"cd {tmp_path}\n"
        'shift 2; echo "$@" >>asked\n'
        'cat "$4"; [ ! -e "$4.code" ] || exit "$(cat "$4.code")"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(lab_kernels.sys, "executable", str(program))  # type: ignore[attr-defined]
    return tmp_path


def answer(labs: Path, name: str, value: object, code: int = 0) -> None:
    (labs / name).write_text(json.dumps(value))
    (labs / f"{name}.code").write_text(str(code))


def parity_of(*answers: Answer) -> dict[str, object]:
    verdicts = [
        Verdict(case, given, 1, 2, () if given is Answer.SHOWN else (f"because {given.value}",))
        for case, given in zip(SOME, answers, strict=False)
    ]
    return Parity("", "7.9", tuple(verdicts)).to_json()


def test_two_kernels_are_asked_and_differences_come_first(
    labs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(labs, "a", parity_of(Answer.SHOWN, Answer.SHOWN, Answer.ABSENT))
    answer(labs, "b", parity_of(Answer.SHOWN, Answer.OTHERWISE), 1)
    assert main(["parity", "some", "--kernel", "a", "--kernel", "b"]) == 1
    told = capsys.readouterr().out
    asked = f"{labs / 'python'} -m pyvmm parity --json some"
    assert (labs / "asked").read_text().splitlines() == [
        f"lab run --kernel {name} -- {asked}" for name in ("a", "b")
    ]
    assert told.splitlines()[:11] == [
        "a (Linux 7.9): of 3 cases 2 shown, 1 absent",
        "b (Linux 7.9): of 2 cases 1 shown, 1 otherwise",
        "",
        "where they differ: 2",
        f"  {SOME[1].kernel_test}: {SOME[1].name}",
        "    a: shown (1 of 2)",
        "    b: otherwise (1 of 2): because otherwise",
        f"  {SOME[2].kernel_test}: {SOME[2].name}",
        "    a: absent (1 of 2): because absent",
        "    b: not asked",
        "",
    ]
    assert told.splitlines()[-2:] == ["[1] because absent", "[2] because otherwise"]


def test_two_kernels_as_json(labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(labs, "a", parity_of(Answer.SHOWN, Answer.ABSENT))
    answer(labs, "b", parity_of(Answer.SHOWN, Answer.SHOWN))
    assert main(["parity", "--json", "--kernel", "a", "--kernel", "b"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differences"] == [SOME[1].function]
    assert [kernel["name"] for kernel in told["kernels"]] == ["a", "b"]
    assert told["kernels"][0]["cases"] == parity_of(Answer.SHOWN, Answer.ABSENT)["cases"]


@pytest.mark.parametrize("room", [60, 80])
def test_parity_in_a_narrow_terminal(
    room: int, labs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "because " + " ".join(["the kernel says so"] * 9)
    verdicts = [Verdict(case, Answer.ABSENT, 1, 2, (why,)) for case in running.cases()]
    answer(labs, "a", Parity("", "7.9", tuple(verdicts)).to_json())
    answer(labs, "b", parity_of(Answer.SHOWN))

    def told(columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["parity", "--kernel", "a", "--kernel", "b"]) == 0
        return capsys.readouterr().out

    whole, narrow = told(1000), told(room)
    assert max(map(len, whole.splitlines())) > 160
    assert room - 20 < max(map(len, narrow.splitlines())) <= room
    assert narrow.split() == whole.split(), "no word is broken"


def test_replays_side_by_side(labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(labs, "old", replayed("first merged", types="only one kind"))
    answer(labs, "new", replayed("mainline", DIFFERENCE), 1)
    words = ["lifetime", "replay", "--kernel", "old", "--kernel", "new", "--count", "2"]
    assert main([*words, "--universe", "small"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert "lifetime replay --json --universe small --count 2 --" in (labs / "asked").read_text()
    assert told[:10] == [
        "where the kernels differ: 3",
        "  behaves as",
        "    old: first merged",
        "    new: mainline",
        "  differences from the model",
        "    old: none",
        "    new: 1",
        "  replayable, types",
        "    old: no: only one kind",
        "    new: -",
    ]
    assert "    step 2 of 3, answer: expected ok, seen EIO" in told
    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["differences"]["behaves as"] == {"old": "first merged", "new": "mainline"}


def attacked(design: str, **verdicts: str) -> dict[str, object]:
    """What ``pyvmm lifetime attack --json`` prints, by remedies: rebinding stopped or not."""
    attempts = [
        {
            "remedies": remedies.replace("_", "-"),
            "attack": attack,
            "reached": verdict == "REACHED",
            "verdict": verdict,
            "steps": [{"step": "another VM binds the file", "answer": "ok"}],
        }
        for remedies, said in verdicts.items()
        for attack, verdict in (("rebinding", said), ("looking-in", "stopped"))
    ]
    return {"design": design, "attempts": attempts}


def test_attacks_side_by_side(labs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(labs, "linux", attacked("file-pins-vm", none="stopped"))
    answer(labs, "mail", attacked("memslot-pins-file", none="REACHED"))
    words = ["lifetime", "attack", "--kernel", "linux", "--kernel", "mail", "--vms", "3"]
    assert main(words) == 0
    assert (labs / "asked").read_text().splitlines() == [
        f"lab run --kernel {name} -- {labs / 'python'} -m pyvmm lifetime attack --json --vms 3"
        for name in ("linux", "mail")
    ]
    told = capsys.readouterr().out.splitlines()
    assert told[:13] == [
        "where the kernels differ: 2",
        "  design",
        "    linux: file-pins-vm",
        "    mail: memslot-pins-file",
        "  another VM binds the file",
        "    linux: stopped",
        "    mail: REACHED",
        "",
        "linux: follows file-pins-vm",
        "  remedies that are on: none",
        "",
        "  another VM binds the file:",
        "    another VM binds the file: ok",
    ]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["kernel"] for one in found["kernels"]] == ["linux", "mail"]
    differing = {"linux": "stopped", "mail": "REACHED"}
    assert found["differences"]["another VM binds the file"] == differing


def test_attacks_with_each_remedy_on_one_kernel(
    labs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(labs, "mail", attacked("memslot-pins-file", none="REACHED", zero_at_unbinding="gone"))
    assert main(["lifetime", "attack", "--kernel", "mail", "--each-remedy"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mail: follows memslot-pins-file",
        "  another VM binds the file:",
        "    none               REACHED",
        "    zero-at-unbinding  gone",
        "",
        "  the host maps the file:",
        "    none               stopped",
        "    zero-at-unbinding  stopped",
    ]
    assert (labs / "asked").read_text().endswith("lifetime attack --json --vms 1 --each-remedy\n")
    assert main(["lifetime", "attack", "--kernel", "mail", "--remedy", "judged-flags"]) == 0
    assert (labs / "asked").read_text().endswith("--vms 1 --remedy judged-flags\n")


def test_what_no_kernel_can_be_asked_is_said_without_one(
    labs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lifetime", "attack", "--kernel", "mail", "--remedy", "hope"]) == 64
    assert "turn the remedy 'hope' on: there is none" in capsys.readouterr().err
    assert not (labs / "asked").exists()


@pytest.mark.parametrize(
    ("code", "ours"), [(64, 64), (69, 69), (71, 71), (3, 71)], ids=["usage", "host", "lab", "other"]
)
def test_a_lab_that_does_not_answer(
    labs: Path, capsys: pytest.CaptureFixture[str], code: int, ours: int
) -> None:
    answer(labs, "a", {}, code)
    assert main(["parity", "--kernel", "a"]) == ours
    *_, last = capsys.readouterr().err.splitlines()
    assert last == (
        f"pyvmm: cannot ask the kernel a: the command there ended with {code}, as said before"
    )


@pytest.mark.parametrize(
    "printed", ["", "[]", "{}", '{"cases": [{}], "release": "7"}', '{"cases": {}, "release": "7"}']
)
@pytest.mark.parametrize(
    "words",
    [["parity"], ["lifetime", "replay"], ["lifetime", "attack"]],
    ids=["parity", "replay", "attack"],
)
def test_an_answer_that_is_none(
    labs: Path, capsys: pytest.CaptureFixture[str], words: list[str], printed: str
) -> None:
    (labs / "a").write_text(printed)
    assert main([*words, "--kernel", "a"]) == 70
    err = capsys.readouterr().err
    assert f"cannot read what pyvmm {words[0]}" in err
    assert "Traceback" not in err


def test_a_kernel_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--kernel", "a", "--kernel", "a"]) == 64
    assert capsys.readouterr().err == (
        "pyvmm: cannot compare a and a: one is named twice; name different kernels\n"
    )


def test_verdicts() -> None:
    first, second, third = SOME
    told = [
        Told(second.function, "a", Outcome.SKIPPED, "lacks it"),
        Told(second.function, "b", Outcome.SKIPPED, "lacks it"),
        Told(first.function, "a", Outcome.PASSED, ""),
        Told(first.function, "b", Outcome.FAILED, "another errno"),
        Told(first.function, "c", Outcome.SKIPPED, "lacks it"),
    ]
    assert judge(SOME, told) == (
        Verdict(first, Answer.OTHERWISE, 1, 3, ("another errno",)),
        Verdict(second, Answer.ABSENT, 0, 2, ("lacks it",)),
    )
    here = Parity("here", "", judge(SOME, told))
    assert differences([here, here]) == ()
    passed = [Told(case.function, "", Outcome.PASSED, "") for case in SOME]
    assert differences([here, Parity("there", "", judge(SOME, passed))]) == (first, second, third)


def test_rows_of_the_table() -> None:
    text = "| a | b | c | `test_x.py::test_y` | yes |\n|---|---|---|---|---|\n| k | c | why |\n"
    assert parse(text) == (Case("a", "b", "c", "test_x.py::test_y"),)


@pytest.mark.kvm
@pytest.mark.slow
def test_cases_on_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    """The cases are those that pytest finds in the checkout, run by a process of its own."""
    assert main(["parity", "--json", "file_is_no_pages or sizes_that_are_no"]) == 0
    told = json.loads(capsys.readouterr().out)
    (only,) = told["cases"]
    assert only["case"] == "create_guest_memfd_invalid_sizes"
    assert only["answer"] == "shown"
    assert 0 < only["shown"] <= only["asked"]


@pytest.mark.kvm
@pytest.mark.slow
def test_the_model_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--json", "begins_shared_and_contents_stay"]) == 0
    (only,) = json.loads(capsys.readouterr().out)["cases"]
    assert only["asked"] == 1


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "said"),
    [("no_such_case", "none does"), ("a and (", "pytest's -k cannot read it")],
    ids=["nothing", "no pattern"],
)
def test_a_pattern_that_chooses_nothing(
    pattern: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", pattern]) == 64
    assert f"cannot run the cases that match '{pattern}': {said}" in capsys.readouterr().err


def test_without_pytest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "find_spec", lambda _name: None)
    assert main(["parity"]) == 69
    assert "pytest is not installed; install pytest" in capsys.readouterr().err


class _UnexpectedError(Exception):
    """The signal was not taken."""


@pytest.fixture
def signalled(labs: Path) -> Iterator[Callable[[], int]]:
    """Sends SIGTERM once a child is there that says nothing; what it gives is the child's number.

    Whoever does not take the signal fails the test instead of ending it.
    """
    (labs / "python").write_text(
        f"#!/bin/sh\necho $$ >{labs}/new && mv {labs}/new {labs}/pid\nexec sleep 600\n"
    )

    def unexpected(_number: int, _frame: FrameType | None) -> None:
        raise _UnexpectedError

    def send() -> None:
        while not (labs / "pid").exists() and not over.wait(0.01):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    before = signal.signal(signal.SIGTERM, unexpected)
    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield lambda: int((labs / "pid").read_text())
    finally:
        over.set()
        sending.join()
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_ends_it_ends_the_command_in_the_lab(
    signalled: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", "--kernel", "a"]) == ExitCode.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(signalled(), 0)
    assert capsys.readouterr().err.splitlines()[-1] == "pyvmm: interrupted by SIGTERM"


def test_a_signal_while_the_command_in_the_lab_is_being_started_ends_it(
    labs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, **options)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)

    (labs / "python").write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    assert main(["parity", "--kernel", "a"]) == ExitCode.INTERRUPTED
    (child,) = started
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.kvm
def test_a_signal_that_ends_it_ends_the_cases(signalled: Callable[[], int]) -> None:
    assert main(["parity"]) == ExitCode.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(signalled(), 0)
