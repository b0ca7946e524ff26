# SPDX-License-Identifier: MIT
"""Artifacts of boot tests: what is in their folders, where these are, and what keeps them away."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import trio
from elftools.elf.elffile import ELFFile

from pyvmm.cli.main import main
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.pyvmm_driver import PyvmmDriver
from pyvmm.testing.explaining import artifacts
from pyvmm.testing.explaining.artifacts import Artifacts, folder_name
from pyvmm.testing.explaining.explain import explain
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.images.symbols import code_of
from pyvmm.testing.request import make_request
from tests.testing.test_explain import failed_reports, guests_of
from tests.testing.test_plugin import _plugins_by_name, run  # noqa: F401 - a fixture
from tests.testing.test_symbols import unstripped

FILES = ["console.txt", "core", "events.json", "explanation.txt", "result.json"]
FAILING = """
import pytest

def test_it(boot):
    with boot("hang", host="model", memory="4M", append="x") as vm:
        vm.console.expect("hanging")
        vm.stop()
        assert 0

@pytest.mark.parametrize("what", ["a/b c"])
def test_passes(boot, what):
    with pytest.raises(AssertionError), boot("hang", host="model", memory="4M") as vm:
        vm.console.expect("never", timeout=0.01)
"""


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_test_that_fails_has_a_folder(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAILING, "--pyvmm-artifacts", "out/here", failed=1, passed=1)
    (report,) = failed_reports(result)
    (guest,) = guests_of(report)
    assert guest["artifacts"] == "out/here/test_a_test_that_fails_has_a_folder.py-test_it"
    assert names(pytester.path / "out/here") == [Path(guest["artifacts"]).name]
    folder = pytester.path / guest["artifacts"]
    assert names(folder) == FILES
    assert (folder / "console.txt").read_bytes() == b"hanging\n"
    explanation = (folder / "explanation.txt").read_text()
    assert explanation.startswith(f"{report.nodeid}\nguest hang on model\nit was still running")
    assert report.sections[-1][1] in explanation
    told = json.loads((folder / "result.json").read_text())
    assert told["test"] == report.nodeid
    assert told["vcpus"] == guest["vcpus"]
    events = json.loads((folder / "events.json").read_text())
    assert [one["event"] for one in events["events"]] == ["paused"]
    assert events["events"][0]["seconds"] > 0
    assert events["last_exits"]["0"] == guest["vcpus"][0]["exits"]
    with (folder / "core").open("rb") as file:
        core = ELFFile(file)
        rip = guest["vcpus"][0]["rip"]
        (note,) = [n for s in core.iter_segments("PT_NOTE") for n in s.iter_notes()]
        assert note["n_type"] == "NT_PRSTATUS"
        assert int.from_bytes(note["n_descdata"][112 + 16 * 8 : 112 + 17 * 8], "little") == rip
        load = next(
            one
            for one in core.iter_segments("PT_LOAD")
            if one["p_vaddr"] <= rip < one["p_vaddr"] + one["p_filesz"]
        )
        assert load["p_paddr"] == load["p_vaddr"]
        assert load.data()[rip - load["p_vaddr"] :][:2] == b"\xeb\xfe"


def test_each_guest_has_one_and_images_in_memory_are_written(
    pytester: pytest.Pytester, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    result = run(
        pytester,
        """
        import pyvmm

        def test_it(boot):
            image = pyvmm.guest_image("hello")
            with boot(image, host="model", memory="4M", append="it's") as vm:
                vm.wait()
            with boot("exit", host="model") as vm:
                assert vm.wait() is None
        """,
        "--pyvmm-artifacts=out",
        failed=1,
    )
    (report,) = failed_reports(result)
    hello, ended = guests_of(report)
    assert [Path(one["artifacts"]).name for one in (hello, ended)] == ["1-image", "2-exit"]
    folder = pytester.path / hello["artifacts"]
    assert names(folder) == [
        "console.txt",
        "events.json",
        "explanation.txt",
        "guest.img",
        *FILES[4:],
    ]
    assert names(pytester.path / ended["artifacts"]) == FILES
    program, *arguments = shlex.split(hello["by_hand"])
    assert program == "pyvmm"
    assert str(folder / "guest.img") in arguments
    capfdbinary.readouterr()
    assert main(arguments) == 0
    assert capfdbinary.readouterr().out == (folder / "console.txt").read_bytes()


@pytest.mark.slow
def test_a_test_that_passes_has_one_if_asked(pytester: pytest.Pytester) -> None:
    for _ in range(2):
        run(
            pytester,
            """
            def test_it(boot):
                with boot("hello", host="model", memory="4M") as vm:
                    assert vm.wait().status == 0
            """,
            "--pyvmm-artifacts=out",
            "--pyvmm-artifacts-always",
            passed=1,
        )
    name = "test_a_test_that_passes_has_one_if_asked.py-test_it"
    assert names(pytester.path / "out") == [name, f"{name}.2"]
    assert names(pytester.path / "out" / name) == FILES


def test_images_in_memory_have_a_file_without_artifacts(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    test = """
        import pyvmm

        def test_it(boot):
            with boot(pyvmm.guest_image("exit"), host="model", append="3") as vm:
                assert vm.wait().status == 0
        """
    lines = [
        guests_of(failed_reports(run(pytester, test, failed=1))[0])[0]["by_hand"] for _ in range(2)
    ]
    assert lines[0] == lines[1]
    program, *arguments = shlex.split(lines[0])
    assert program == "pyvmm"
    assert Path(arguments[1]).is_relative_to(tmp_path)
    assert main(arguments) == 3
    folder = next(tmp_path.iterdir())
    assert folder.stat().st_mode & 0o77 == 0


def test_a_folder_that_cannot_be_written_to_is_told_in_a_line(pytester: pytest.Pytester) -> None:
    (pytester.path / "file").write_text("")
    pytester.makepyfile("def test_it(): pass")
    for folder in ("file", "file/in"):
        result = pytester.runpytest_inprocess(
            "-p", "pyvmm.testing.plugin", f"--pyvmm-artifacts={folder}"
        )
        assert result.ret is pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: --pyvmm-artifacts: cannot write to {folder}: *"])


def test_what_cannot_be_written_is_told_in_a_line(
    boot: Boots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core and files: the explanation is there, and says what is not."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyvmm.qmp.memory_file.os.pwrite", full)
    artifacts = Artifacts(tmp_path / "out", "test.py::test", tmp_path)
    witness = Witness(lambda: tmp_path / "core")
    with (
        pytest.raises(ExpectError) as raised,
        Boots(boot._loop, witness=witness)("hang", host="model", memory="2M") as vm,
    ):
        vm.console.expect("never", timeout=0.01)
    (remains,) = witness.guests
    assert len(remains.remarks) == 1
    assert "its core: " in remains.remarks[0]
    assert "No space left" in remains.remarks[0]
    assert not (tmp_path / "core").exists()
    (tmp_path / "out").write_text("in the way")
    explanation = explain(remains, raised.value)
    assert artifacts.write(remains, explanation, 1, 1) == explanation
    assert artifacts.core_path() is None
    (failure,) = artifacts.failures
    assert failure == f"artifacts cannot be written: {tmp_path / 'out'}: File exists"


@pytest.mark.slow
def test_private_memory_is_not_in_a_core_and_that_is_said(boot: Boots, tmp_path: Path) -> None:
    witness = Witness(lambda: tmp_path / "core")
    with (
        pytest.raises(ZeroDivisionError),
        Boots(boot._loop, witness=witness)(
            "secret", append="host=1", host="model", private=True, memory="16M"
        ) as vm,
    ):
        vm.console.expect("secret at")
        vm.stop()
        raise ZeroDivisionError
    (remains,) = witness.guests
    private = sum(size for _, size, state in remains.memory if state != "shared")
    assert private
    assert remains.remarks == [
        f"its core has no contents of {private >> 10} KiB that the host does not see"
    ]
    explanation = explain(remains, None)
    (vcpu,) = explanation.vcpus
    assert vcpu.rip is not None
    assert vcpu.is_images_code
    in_image = code_of(remains.life.request.image, vcpu.rip, 16)
    assert vcpu.code == in_image.hex(" ")
    told = f"code at rip, in the image (its memory is not readable): {vcpu.code}"
    assert told in explanation.to_text()
    with (tmp_path / "core").open("rb") as file:
        loads = list(ELFFile(file).iter_segments("PT_LOAD"))
    without = sum(one["p_memsz"] for one in loads if not one["p_filesz"])
    assert without == private


def test_names_of_folders() -> None:
    assert (
        folder_name("tests/test_x.py::test_it")
        == "tests_test_x.py-test_it-" + folder_name("tests/test_x.py::test_it")[-8:]
    )
    several = ["t.py::t[a/b]", "t.py::t[a b]", "t.py::t[a_b]", "t.py::t", "../../etc", "x" * 300]
    made = [folder_name(one) for one in several]
    assert len(set(made)) == len(made)
    for name in made:
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert len(name) < 120


@pytest.mark.slow
def test_gdb_reads_the_core(boot: Boots, tmp_path: Path) -> None:
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("gdb is not installed")
    with boot("hang", host="model", memory="4M") as vm:
        vm.console.expect("hanging")
        driver = vm._inner._life.driver
        assert isinstance(driver, PyvmmDriver)

        async def write() -> None:
            with trio.fail_after(60):
                await driver.core(str(tmp_path / "core"))

        vm._task.call(write)
    command = [
        gdb, "-nx", "-batch", "-ex", "x/i $rip", str(unstripped("hang")), str(tmp_path / "core"),
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "guest_main () at programs/hang.c" in said
    assert "<guest_main+" in said


@pytest.mark.slow
def test_workers_of_xdist_write_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_inprocess(
        "-p", "xdist.plugin", "-p", "pyvmm.testing.plugin", "-p", "no:cacheprovider", "-n2",
        "--pyvmm-artifacts=out",
    )  # fmt: skip
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*guest hang on model*", "artifacts: out/*-test_it"])
    (folder,) = (pytester.path / "out").iterdir()
    assert names(folder) == FILES


def test_temporary_images_are_whole_few_and_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(artifacts, "_KEPT", 3)
    own = tmp_path / f"pyvmm-images-{os.getuid()}"
    requests = [make_request(b"image %d" % number) for number in range(5)]
    lines, written = [], []
    for age, request in enumerate(requests):
        lines.append(artifacts.with_files(request, "pyvmm run image"))
        written.append(Path(lines[-1].split()[-1]))
        os.utime(written[-1].parent, (age, age))
    assert [path.exists() for path in written] == [False] * 2 + [True] * 3
    # Part of an image, as something else has left it.
    written[3].write_bytes(b"i")
    assert artifacts.with_files(requests[3], "pyvmm run image") == lines[3]
    assert written[3].read_bytes() == b"image 3"
    artifacts.with_files(requests[0], "pyvmm run image")
    assert {written[0].parent, written[3].parent} < set(own.iterdir())
    assert sorted(one.name for one in own.rglob("*") if one.is_file()) == ["guest.img"] * 3
    own.chmod(0o750)
    assert artifacts.with_files(requests[1], "pyvmm run image") == "pyvmm run image"
    assert not written[1].exists()
