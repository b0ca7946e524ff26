# SPDX-License-Identifier: MIT
"""Images as files of tests, in pytest runs of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from textwrap import dedent

import pytest

from pyvmm.testing.images.cases import list_cases

from .serial_guest import printing

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).parents[2] / "guest" / "build"
FAILING = str(IMAGES / "failing.img")
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:terminalprogress")
"""Nothing that these runs do not need."""

KUNIT = """\
    [    0.050000] Linux version 7.1
    [    0.060000] KTAP version 1
    [    0.060000] 1..2
    [    0.060000]     KTAP version 1
    [    0.060000]     # Subtest: list
    [    0.060000]     1..3
    [    0.070000]     # add: EXPECTATION FAILED at lib/list.c:3
    [    0.070000]     Expected 1 == 2
    [    0.070000]     not ok 1 add
    [    0.070000]         KTAP version 1
    [    0.070000]         # Subtest: sizes
    [    0.070000]         ok 1 one
    [    0.070000]         ok 2 one # SKIP too large
    [    0.070000]     ok 2 sizes
    [    0.070000]     not ok 3 remove # XFAIL known
    [    0.070000] not ok 1 list
    [    0.070000] ok 2 boot
"""


def run(pytester: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*QUICK, *arguments)


def image(pytester: pytest.Pytester, text: str, status: int = 0, name: str = "kunit.bin") -> Path:
    path = pytester.path / name
    path.write_bytes(printing(dedent(text), status))
    return path


# -- cases --


def test_every_case_is_an_item_and_nothing_is_booted_to_collect(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.machine.loop_thread.LoopThread.__enter__", None)
    done = run(pytester, "--collect-only", "-q", FAILING)
    assert done.ret == 0
    cases = list_cases(Path(FAILING).read_bytes(), "x")
    assert cases is not None
    names = [line.rpartition("::")[2] for line in done.outlines if "::" in line]
    assert names == [case.name for case in cases]


def test_the_librarys_cases_pass_one_by_one(pytester: pytest.Pytester) -> None:
    done = run(pytester, "-v", IMAGES / "tests.img")
    done.assert_outcomes(passed=15, skipped=1)
    done.stdout.fnmatch_lines(
        ["*tests.img::the_timer_ticks PASSED*", "SKIPPED*assertions.c:*: to show what that *"]
    )


def test_a_failure_is_shown_as_pytest_shows_its_own(pytester: pytest.Pytester) -> None:
    done = run(pytester, f"{FAILING}::checks_go_on", f"{FAILING}::asserts_stop")
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(
        [
            '        const char [*]name = "two\\nlines \\"quoted\\"";',
            ">       check_eq(balance, 30);",
            "E       check_eq(balance, 30)",
            "E         left: -12 (0xfffffffffffffff4)",
            "E         right: 30 (0x1e)",
            "*failing.c:19: failed in the guest",
            ">       check_eq(name, NULL);",
            "E         right: NULL",
            "  | still here, in half a line",
            ">       assert_eq(pages, UINT64_MAX);",
            "FAILED *failing.img::checks_go_on - *",
        ]
    )


def test_a_crash_takes_no_other_case_along(pytester: pytest.Pytester) -> None:
    names = ["faults", "panics", "exits", "prints_what_looks_like_a_result", "is_skipped", "passes"]
    done = run(pytester, "-v", *(f"{FAILING}::{name}" for name in names))
    done.assert_outcomes(failed=4, skipped=1, passed=1)
    done.stdout.fnmatch_lines(
        [
            "E       the guest has panicked: unexpected exception 14 (#PF page fault) at rip 0x*",
            "*failing.c:54: the guest has panicked: *",
            "  | # faults: did not end",
            "E       the guest has panicked: this case has had enough",
            "E       the case gave no result, and the guest has ended: *status 0",
            "E       its output makes no sense: result 1 (*) where 2 was due",
        ]
    )


@pytest.mark.parametrize(
    "limit", [("--pyvmm-images", f"{FAILING} timeout=0.5"), ("--pyvmm-timeout=0.5",)]
)
def test_a_case_that_hangs_is_ended(pytester: pytest.Pytester, limit: tuple[str, ...]) -> None:
    done = run(pytester, f"{FAILING}::hangs", *limit)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E       the case did not end within 0.5 s"])


def test_cases_are_chosen_and_listed_as_any_test(pytester: pytest.Pytester) -> None:
    run(pytester, FAILING, "-k", "passes or skipped").assert_outcomes(
        passed=1, skipped=1, deselected=8
    )
    assert run(pytester, f"{FAILING}::nobody").ret == pytest.ExitCode.USAGE_ERROR
    assert run(pytester, "--setup-plan", f"{FAILING}::passes").ret == 0
    assert run(pytester, "--fixtures-per-test", f"{FAILING}::passes").ret == 0


def test_only_what_is_given_or_declared_is_an_image(pytester: pytest.Pytester) -> None:
    (pytester.path / "a.img").write_bytes(Path(FAILING).read_bytes())
    (pytester.path / "b.img").write_bytes(Path(FAILING).read_bytes())
    (pytester.path / "guest.c").write_text("KTAP version 1\n")
    assert run(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    pytester.makeini("[pytest]\npyvmm_images =\n    b.* timeout=9 memory=16M\n")
    done = run(pytester, "--collect-only", "-q")
    assert {line.partition("::")[0] for line in done.outlines if "::" in line} == {"b.img"}
    done = run(pytester, "--collect-only", "-q", "a.img", "guest.c")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: not found: *guest.c"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            (IMAGES / "hello.img"),
            "it has no section .pyvmm.cases; link test cases into it * or say *",
        ),
        (b"\x7fELF.pyvmm.cases", None),
    ],
)
def test_what_cannot_be_listed_is_told_in_a_line(
    pytester: pytest.Pytester, content: bytes | Path, told: str | None
) -> None:
    path = pytester.path / "x.img"
    path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    done = run(pytester, "x.img")
    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([f"cannot list the test cases of x.img: {told or '*'}"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_a_damaged_image_is_told_in_a_line_and_others_go_on(pytester: pytest.Pytester) -> None:
    content = Path(FAILING).read_bytes()
    (pytester.path / "bad.img").write_bytes(content[:-100])
    done = run(pytester, "bad.img", f"{FAILING}::passes", "--continue-on-collection-errors")
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["cannot list the test cases of bad.img: * beyond the end of the *"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x.img memroy=3M", "'memroy=3M' makes no sense there; a line is: GLOB *"),
        ("x=y", "it begins with 'x=y', and not with a glob; a line is: GLOB *"),
        ("timeout=0.5", "it begins with 'timeout=0.5', and not with a glob; *"),
        ("x.img memory=lots", "'memory=lots' makes no sense there*"),
        ("x.img cpus=0", "'cpus=0' makes no sense there*"),
        ("x.img timeout=0", "'timeout=0' makes no sense there*"),
        ("x.img host=moon", "'host=moon' makes no sense there*"),
        ("x.img ktap=1", "'ktap=1' makes no sense there*"),
        ("x.img 'append=", "no closing quotation*"),
        ("# nothing", "it is empty*"),
    ],
)
def test_a_line_that_makes_no_sense_is_told(
    pytester: pytest.Pytester, line: str, told: str
) -> None:
    done = run(pytester, FAILING, "--pyvmm-images", line)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: cannot read the line * of pyvmm_images: {told}"])


# -- guests that print KTAP or TAP --


def told(done: pytest.RunResult) -> dict[str, str]:
    """Words of a verbose run, by what is behind the image's name."""
    lines = [re.match(r"\S+\.bin::(.+?) ([A-Z]+)\b", line) for line in done.outlines]
    return {match[1]: match[2] for match in lines if match}


EXPECTED = {
    "boot": "PASSED",
    "list::add": "FAILED",
    "list::sizes::one": "PASSED",
    "list::sizes::one#2": "SKIPPED",
    "list::remove": "XFAIL",
    "boot#2": "PASSED",
}


def test_every_result_is_a_report_of_its_own(pytester: pytest.Pytester) -> None:
    path = image(pytester, KUNIT, status=1)
    xml = pytester.path / "junit.xml"
    done = run(pytester, "-v", "--pyvmm-ktap", path, f"--junit-xml={xml}")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=3, failed=1, skipped=1, xfailed=1)
    assert told(done) == EXPECTED
    done.stdout.fnmatch_lines(
        [
            "E       Expected 1 == 2",
            "lib/list.c:3: failed in the guest",
            "FAILED kunit.bin::list::add - Expected 1 == 2",
        ]
    )
    (suite,) = ET.parse(xml).getroot()
    assert {key: suite.attrib[key] for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "6", "failures": "1", "skipped": "2", "errors": "0",
    }  # fmt: skip
    named = {f"{case.attrib['classname']}.{case.attrib['name']}" for case in suite}
    assert named == {f"kunit.bin.{name.replace('::', '.')}" for name in EXPECTED}


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("nothing of that kind\n", 0, "the guest's output makes no sense: no version line of *"),
        ("KTAP version 1\n1..0\n", 0, "no tests ran in the guest"),
        (
            "KTAP version 1\n1..1\nok 1 a\n",
            3,
            "every test passed, but the guest ended with status 3",
        ),
        ("KTAP version 1\n1..1\nok 2 a\n", 0, "*: result 2 (a) where 1 was due"),
        ("TAP version 13\n1..2\nok 1 a\nBail out! no disk\n", 0, "*gave up: Bail out! no disk"),
    ],
)
def test_what_no_result_says_fails_the_boot(
    pytester: pytest.Pytester, text: str, status: int, reason: str
) -> None:
    done = run(pytester, "-v", "--pyvmm-ktap", image(pytester, text, status))
    assert told(done)["boot"] == "FAILED"
    done.stdout.fnmatch_lines([f"E       {reason}"])


def test_what_is_missing_fails_and_what_came_is_kept(pytester: pytest.Pytester) -> None:
    text = "KTAP version 1\n1..3\nok 1 a\nKernel panic - not syncing: oh\n"
    done = run(pytester, "-v", "--pyvmm-ktap", image(pytester, text, 0))
    assert told(done) == {"boot": "PASSED", "a": "PASSED", "missing 2..3": "FAILED"}
    done.stdout.fnmatch_lines(
        ["E       planned, but no result came", "  | Kernel panic - not syncing: oh"]
    )


def test_results_of_a_guest_that_goes_on_for_ever_are_kept(pytester: pytest.Pytester) -> None:
    path = image(pytester, "KTAP version 1\n1..1\nok 1 a\n", -1)
    done = run(pytester, "-v", "--pyvmm-images", "*.bin ktap timeout=4", path)
    assert told(done) == {"boot": "FAILED", "a": "PASSED"}
    done.stdout.fnmatch_lines(["E       the guest did not end within 4 s: 1 passed until then"])


def test_an_image_of_ours_gives_the_same_in_one_boot(pytester: pytest.Pytester) -> None:
    done = run(pytester, "--pyvmm-ktap", IMAGES / "tests.img")
    done.assert_outcomes(passed=16, skipped=1)


def test_a_tree_of_results_stops_at_the_first_failure_if_asked(pytester: pytest.Pytester) -> None:
    path = image(pytester, KUNIT, status=1)
    other = image(pytester, "KTAP version 1\n1..1\nok 1 a\n", name="other.bin")
    done = run(pytester, "-x", "--pyvmm-ktap", path, other)
    assert "other.bin" not in done.stdout.str()
    done.assert_outcomes(passed=3, failed=1, skipped=1, xfailed=1)


def test_results_that_failed_are_had_again_by_their_boot(pytester: pytest.Pytester) -> None:
    image(pytester, KUNIT, status=1)
    image(pytester, "KTAP version 1\n1..1\nok 1 a\n", name="other.bin")
    pytester.makepyfile("def test_fails(): assert 0\ndef test_passes(): pass")
    pytester.makeini("[pytest]\npyvmm_images = *.bin ktap\n")
    quick = QUICK[2:]
    done = pytester.runpytest_inprocess(*quick)
    done.assert_outcomes(passed=6, failed=2, skipped=1, xfailed=1)
    done = pytester.runpytest_inprocess(*quick, "--lf", "-v")
    done.assert_outcomes(passed=3, failed=2, skipped=1, xfailed=1)
    assert told(done) == EXPECTED


def test_text_is_no_image(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    run(pytester, "--pyvmm-ktap", *pytester.path.glob("*.py")).assert_outcomes(passed=1)


# -- hosts --


@pytest.mark.qemu
def test_hosts_are_those_of_the_line_and_of_the_command_line(pytester: pytest.Pytester) -> None:
    line = f"{FAILING} host=model,qemu-tcg"
    case = f"{FAILING}::passes"
    done = run(pytester, "-v", FAILING, "-k", "passes", "--pyvmm-images", line)
    done.assert_outcomes(passed=2, deselected=18)
    done.stdout.fnmatch_lines(["*::passes[[]model] PASSED*", "*::passes[[]qemu-tcg] PASSED*"])
    done = run(pytester, "-v", f"{case}[model]", "--pyvmm-host=model,qemu-tcg")
    done.assert_outcomes(passed=1)
    done = run(pytester, "-rs", FAILING, "-k", "passes", "--pyvmm-images", line, "--pyvmm-host=kvm")
    done.assert_outcomes(skipped=2, deselected=18)


@pytest.mark.qemu
def test_a_failure_under_qemu_is_shown_alike(pytester: pytest.Pytester) -> None:
    done = run(pytester, FAILING, "-k", "asserts_stop or faults", "--pyvmm-host=qemu-tcg")
    done.assert_outcomes(failed=2, deselected=8)
    done.stdout.fnmatch_lines(
        [
            "E         left: 3",
            "*failing.c:28: failed in the guest",
            "E       the guest has panicked: unexpected exception 14 (#PF page fault) at rip 0x*",
        ]
    )
