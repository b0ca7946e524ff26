# SPDX-License-Identifier: MIT
"""What a session reports to CI, in pytest runs of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from textwrap import dedent

import pytest

from pyvmm.testing.results.tap import TapParser
from pyvmm.testing.results.tap_results import TapReport, TapStatus

from .serial_guest import printing

pytestmark = pytest.mark.slow
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

TESTS = """
    import pytest

    @pytest.fixture
    def broken():
        yield
        raise ValueError("too late")

    def test_passes(): pass

    @pytest.mark.parametrize("x", ["a b", "c#d"])
    def test_twice(x): assert x == "a b"

    def test_teardown(broken): pass

    @pytest.mark.xfail(reason="known")
    def test_expected(): assert False

    def test_skipped(): pytest.skip("no disk # here")

    def test_setup(nothing_of_that_name): pass
"""
EXPECTED = {
    "test_it.py::test_passes": TapStatus.PASSED,
    "test_it.py::test_twice[a b]": TapStatus.PASSED,
    "test_it.py::test_twice[c_d]": TapStatus.FAILED,
    "test_it.py::test_teardown::teardown": TapStatus.FAILED,
    "test_it.py::test_expected": TapStatus.XFAILED,
    "test_it.py::test_skipped": TapStatus.SKIPPED,
    "test_it.py::test_setup": TapStatus.FAILED,
    "kunit.bin::boot": TapStatus.PASSED,
    "kunit.bin::suite::a": TapStatus.PASSED,
    "kunit.bin::suite::b": TapStatus.FAILED,
}
KUNIT = """\
    KTAP version 1
    1..1
      KTAP version 1
      # Subtest: suite
      1..2
      ok 1 a
      not ok 2 b
    not ok 1 suite
"""


def run(pytester: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*QUICK, *arguments)


def read(path: Path) -> TapReport:
    parser = TapParser()
    parser.feed(path.read_bytes())
    return parser.finish()


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_the_whole_session_is_one_file_of_ktap(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_it=TESTS)
    (pytester.path / "kunit.bin").write_bytes(printing(dedent(KUNIT), 1))
    out = pytester.path / "results" / "out.ktap"
    done = run(
        pytester,
        *workers,
        "--pyvmm-ktap",
        "test_it.py",
        "kunit.bin",
        "--junit-xml=junit.xml",
        "--pyvmm-boots=0",
        f"--pyvmm-ktap-out={out}",
    )
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    report = read(out)
    (suite,) = ET.parse(pytester.path / "junit.xml").getroot()
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "skipped", "errors")}
    # pytest 8.0 counts a test twice whose teardown is an error.
    assert counts.pop("tests") in {"10", "11"}
    assert counts == {"failures": "2", "skipped": "2", "errors": "2"}
    assert not report.problems
    assert {each.name: each.status for each in report.results} == EXPECTED
    assert [path.name for path in out.parent.iterdir()] == ["out.ktap"]
    done.stdout.fnmatch_lines([f"*KTAP: {out}*"])
    done.stdout.re_match_lines([r"=+ 1 boot, \d+\.\d+ s =+", r"\./kunit\.bin on \w+, booted, .*"])


def test_a_run_that_broke_off_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): assert 0\ndef test_b(): pass\n")
    run(pytester, "-x", "--pyvmm-ktap-out=out.ktap")
    report = read(pytester.path / "out.ktap")
    assert report.problems == ("the guest gave up: Bail out! stopping after 1 failures",)
    pytester.makepyfile("def test_a():\n    import pytest\n    pytest.exit('enough')\n")
    run(pytester, "--pyvmm-ktap-out=out.ktap")
    assert "interrupted" in read(pytester.path / "out.ktap").problems[0]
    pytester.makepyfile("nobody")
    run(pytester, "--pyvmm-ktap-out=out.ktap")
    report = read(pytester.path / "out.ktap")
    assert [each.name.rpartition("::")[2] for each in report.failures] == ["collection"]


def test_a_session_without_tests_is_no_pass(pytester: pytest.Pytester) -> None:
    done = run(pytester, "--pyvmm-ktap-out=out.ktap")
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not read(pytester.path / "out.ktap").passed


def test_a_file_that_cannot_be_written_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    done = run(pytester, "--pyvmm-ktap-out=.")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --pyvmm-ktap-out: . is a folder"])
    (pytester.path / "file").write_text("")
    done = run(pytester, "--pyvmm-ktap-out=file/out.ktap")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stdout.fnmatch_lines(["ERROR: cannot write *out.ktap: *"])


def test_the_file_is_replaced_as_a_whole_and_keeps_no_odd_mode(pytester: pytest.Pytester) -> None:
    out = pytester.path / "out.ktap"
    out.write_text("old\n" * 1000)
    pytester.makepyfile("def test_a(): pass")
    (pytester.path / "other").write_text("")
    assert run(pytester, "--pyvmm-ktap-out=out.ktap").ret == 0
    assert read(out).passed
    assert out.stat().st_mode == (pytester.path / "other").stat().st_mode


# -- boots --

BOOTS = """
    import pytest

    @pytest.fixture
    def guest(boot):
        with boot("echo") as vm:
            yield vm

    def test_two(boot, guest):
        with boot("exit", append="3") as vm:
            assert vm.wait().status == 3
        guest.console.send_line("\\x1b[31m <red> \\x00")
        guest.console.expect("<red> \\x00\\n")

    def test_fails(boot):
        with boot("exit", append="4") as vm:
            assert vm.wait().status == 5

    def test_none():
        pass
"""


def systems_out(path: Path) -> dict[str, str]:
    (suite,) = ET.parse(path).getroot()
    return {
        case.attrib["name"]: "".join(one.text or "" for one in case.iter("system-out"))
        for case in suite
    }


def test_boots_are_timed_and_consoles_are_in_the_xml_if_asked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=BOOTS)
    done = run(pytester, "--pyvmm-boots=0", "--junit-xml=out.xml", "-o", "junit_logging=system-out")
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.re_match_lines(
        [
            r"=+ 3 boots, \d+\.\d{3} s =+",
            r"\S+ on \w+, booted, \d+\.\d{3} s: .* \(test_it\.py::test_\w+\)",
        ]
    )
    lines = [line for line in done.outlines if ", booted, " in line]
    assert sorted(line.partition(" ")[0] for line in lines) == ["echo", "exit", "exit"]
    assert sum("left while it ran" in line for line in lines) == 1
    assert sum("ended with status 3" in line for line in lines) == 1
    said = systems_out(pytester.path / "out.xml")
    assert "\\x1b[31m <red> \\x00" in said["test_two"]
    assert "<properties>" not in (pytester.path / "out.xml").read_text()


def test_consoles_and_properties_are_where_the_options_have_them(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_it=BOOTS)
    run(pytester, "--junit-xml=out.xml", "-o", "junit_family=xunit1", "--pyvmm-boots=1")
    assert set(systems_out(pytester.path / "out.xml").values()) == {""}
    (suite,) = ET.parse(pytester.path / "out.xml").getroot()
    properties = {
        case.attrib["name"]: [
            each.attrib["value"].partition(",")[0].partition(" ")[0]
            for each in case.iter("property")
            if each.attrib["name"] == "pyvmm_boot"
        ]
        for case in suite
    }
    assert properties == {"test_two": ["echo", "exit"], "test_fails": ["exit"], "test_none": []}


def test_files_of_a_guest_are_attached(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=BOOTS)
    run(pytester, "--junit-xml=out.xml", "--pyvmm-artifacts=in/../artifacts", "-k", "fails or none")
    said = systems_out(pytester.path / "out.xml")
    found = sorted((pytester.path / "artifacts").rglob("*.*"))
    files = [path for path in found if path.is_file() and path.name != "core"]
    assert {path.name for path in files} >= {"console.txt", "result.json"}
    assert said["test_none"] == ""
    for path in files:
        assert f"[[ATTACHMENT|{path}]]" in said["test_fails"].splitlines()


def test_the_element_of_a_test_whose_teardown_fails_has_its_files(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken(boot):
            with boot("exit", append="3"):
                yield
                raise ValueError("too late")

        def test_it(broken): pass
        """
    )
    run(pytester, "--junit-xml=out.xml", "--pyvmm-artifacts=artifacts")
    (suite,) = ET.parse(pytester.path / "out.xml").getroot()
    assert {case.attrib.get("name") for case in suite} == {"test_it"}
    assert "console.txt]]" in systems_out(pytester.path / "out.xml")["test_it"]


def test_results_that_failed_have_the_files_and_the_explanation_of_their_boot(
    pytester: pytest.Pytester,
) -> None:
    text = dedent(KUNIT).replace("ok 1 a", "not ok 1 a").replace("1..2", "1..3")
    text = text.replace("  not ok 2 b\n", "  not ok 2 b\n  ok 3 c # SKIP why\n")
    (pytester.path / "kunit.bin").write_bytes(printing(text, 1))
    options = ("--junit-xml=out.xml", "-o", "junit_logging=system-out")
    done = run(pytester, "--pyvmm-ktap", "kunit.bin", "--pyvmm-artifacts=artifacts", *options)
    done.assert_outcomes(passed=1, failed=2, skipped=1)
    (folder,) = (pytester.path / "artifacts").iterdir()
    assert {"console.txt", "result.json", "explanation.txt"} <= {x.name for x in folder.iterdir()}
    attachment = f"[[ATTACHMENT|{folder / 'console.txt'}]]"
    said = systems_out(pytester.path / "out.xml")
    assert {name for name, out in said.items() if attachment in out} == {"boot", "a", "b"}
    (suite,) = ET.parse(pytester.path / "out.xml").getroot()
    assert [len(list(case.iter("system-out"))) for case in suite][-1] == 1
    done.stdout.fnmatch_lines(
        [
            "*- guest ./kunit.bin on * -*",
            "exited after *: the guest ended with status 1",
            f"artifacts: artifacts/{folder.name}",
            "by hand: pyvmm run kunit.bin *",
            "*- guest ./kunit.bin on * -*",
            "the same boot as that of kunit.bin::suite::a",
            f"artifacts: artifacts/{folder.name}",
            "by hand: pyvmm run kunit.bin *",
        ]
    )


def test_what_tests_booted_does_not_stay_until_the_session_ends(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_it=BOOTS)
    pytester.makeconftest(
        """
        def pytest_sessionfinish(session):
            from pyvmm.testing.explaining.failed_tests import guests_of
            print("guests:", sum(len(guests_of(item)) for item in session.items))

        def pytest_runtest_teardown(item):
            from pyvmm.testing.explaining.failed_tests import guests_of
            print("booted:", len(guests_of(item)))
        """
    )
    done = run(pytester, "-s")
    done.stdout.fnmatch_lines(["*booted: 2", "*guests: 0"])
