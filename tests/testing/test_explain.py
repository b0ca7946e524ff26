# SPDX-License-Identifier: MIT
"""Explanations of failed boot tests: each line against guests that are known by heart."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pyvmm.cli.main import main
from pyvmm.errors import InternalError
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.pyvmm_driver import PyvmmDriver
from pyvmm.testing.explaining.disassembly import disassembled
from pyvmm.testing.explaining.explain import MOST_TEXT, Explanation, explain
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import ExpectError
from tests.machine.guests import COUNT, PRINT_AND_SPIN
from tests.testing.test_boot import HOSTS
from tests.testing.test_plugin import _plugins_by_name, run  # noqa: F401 - a fixture

COUNT_AT = 0x7C02


def failed_reports(result: pytest.RunResult) -> list[pytest.TestReport]:
    recorded: Any = result
    reports: list[pytest.TestReport] = recorded.reprec.getreports("pytest_runtest_logreport")
    return [report for report in reports if report.failed]


def guests_of(report: pytest.TestReport) -> list[dict[str, Any]]:
    guests: list[dict[str, Any]] = vars(report)["pyvmm_guests"]
    return guests


def explained(pytester: pytest.Pytester, test: str) -> tuple[str, dict[str, Any]]:
    """The section on the one guest of a test that fails, and its plain values."""
    (report,) = failed_reports(run(pytester, test, failed=1))
    (guest,) = guests_of(report)
    return "\n".join(text for title, text in report.sections if title.startswith("guest")), guest


@HOSTS
def test_each_line_about_a_guest_that_hangs(pytester: pytest.Pytester, host: str) -> None:
    text, guest = explained(
        pytester,
        f"""
        def test_it(boot):
            with boot("hang", host={host!r}, append="a 'b'", memory="8M") as vm:
                vm.console.expect("hanging")
                vm.console.expect("hanging", timeout=0.05)
        """,
    )
    lines = text.splitlines()
    assert re.fullmatch(r"it was still running, \d+\.\d{3} s after its boot", lines[0])
    assert lines[1] == "expected: 'hanging': not within 0.05 s, this call's own time limit"
    assert lines[2] == "nearest miss: 'hanging' was said before the last match"
    assert lines[3:5] == ["console (8 bytes), the end:", "  | hanging"]
    place = re.fullmatch(
        r"vCPU 0: 64-bit mode at (0x[0-9a-f]+), guest_main\+(0x[0-9a-f]+) "
        r"\(programs/hang\.c:\d+\)",
        lines[5],
    )
    assert place
    assert "  cr4 0000000000000020  efer 0000000000000500  cs  0000000000000008" in text
    assert "\n  code at rip: eb fe " in text
    assert f"\n    {place[1]}: jmp {place[1]}\n" in text
    walk = lines.index("  page tables for rip:")
    assert lines[walk + 1].startswith("    PML4E at 0x")
    assert lines[walk + 4] == f"    -> gpa {place[1]}"
    assert re.search(r"\n    +\d+\.\d{6} s ago  IO 0x3f8/1 <- 0x68", text)
    assert "memory:\n  0x0000000000..0x0000800000 8192 KiB shared" in text
    assert lines[-1] == f"by hand: {guest['by_hand']}"
    assert guest["vcpus"][0]["rip"] == int(place[1], 16)
    assert guest["expected"] == ["'hanging'"]
    assert json.loads(json.dumps(guest)) == guest


def test_a_triple_fault_and_a_status_outside_of_the_block(pytester: pytest.Pytester) -> None:
    text, guest = explained(
        pytester,
        """
        def test_it(boot):
            with boot("triple", host="model") as vm:
                vm.console.expect("nothing like that")
        """,
    )
    assert text.startswith("crashed after 0.")
    assert ": triple fault on vCPU 0\nexpected:" in text
    assert guest["vcpus"][0]["exits"][-1].endswith("s ago  SHUTDOWN")
    assert guest["vcpus"][0]["place"].startswith("guest_main+")
    assert guest["exits"]["SHUTDOWN"] == 1
    assert [one.split("  ")[-1] for one in guest["events"]] == ["ended triple fault on vCPU 0"]


def test_a_status_that_is_looked_at_behind_the_block(pytester: pytest.Pytester) -> None:
    text, guest = explained(
        pytester,
        """
        def test_it(boot):
            with boot("exit", append="9", host="model") as vm:
                outcome = vm.wait()
            assert outcome.status == 0
        """,
    )
    assert "note: its block had been left when the test failed: its memory was gone" in text
    assert "console: nothing was said" in text
    rip = guest["vcpus"][0]["rip"]
    assert f"\nvCPU 0: 64-bit mode at {rip:#x}, guest_exit+" in text
    assert "rax" not in text
    assert guest["vcpus"][0]["registers"]["rax"] & 0xFF == 9
    assert guest["memory"] == []


@pytest.mark.slow
def test_several_guests_a_fixtures_block_and_a_test_that_passes(
    pytester: pytest.Pytester,
) -> None:
    """A guest whose block a fixture leaves later is looked at while it runs."""
    result = run(
        pytester,
        """
        import pytest

        @pytest.fixture
        def vm(boot):
            with boot("echo", host="model") as vm:
                yield vm

        def test_fails(boot, vm):
            vm.console.send_line("to echo")
            vm.console.expect("echo")
            with boot("exit", host="model") as other:
                other.wait()
            with pytest.raises(AssertionError), boot("hang", host="model") as third:
                third.console.expect("said never", timeout=0.01)
            vm.console.expect("echo", timeout=0.01)

        def test_passes(boot):
            with pytest.raises(AssertionError), boot("hang", host="model") as vm:
                vm.console.expect("said never", timeout=0.01)
        """,
        failed=1,
        passed=1,
    )
    (report,) = failed_reports(result)
    guests = guests_of(report)
    titles = [title for title, _ in report.sections]
    assert titles == [f"guest {name} on model" for name in ("echo", "exit", "hang")]
    assert [guest["expected"] for guest in guests] == [["'echo'"], [], []]
    assert guests[0]["nearest"] == "'echo' was said before the last match"
    assert guests[0]["vcpus"][0]["rip"]


@pytest.mark.slow
def test_a_guest_that_tests_share_is_explained_to_each_that_fails(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="module")
        def vm(session_boot):
            with session_boot("echo", host="model", memory="2M") as vm:
                yield vm

        def test_first(vm):
            vm.console.send_line("first")
            vm.console.expect("first")
            assert 0

        def test_second(vm):
            vm.console.send_line("second")
            vm.console.expect("second")

        def test_third(vm):
            assert 0

        def test_of_another(boot):
            assert 0
        """,
        "--pyvmm-artifacts=out",
        failed=3,
        passed=1,
    )
    first, third, other = failed_reports(result)
    assert guests_of(first)[0]["console"] == ["first"]
    assert guests_of(third)[0]["console"] == ["first", "second"]
    assert guests_of(third)[0]["vcpus"][0]["exits"]
    assert not hasattr(other, "pyvmm_guests")
    assert (pytester.path / guests_of(third)[0]["artifacts"] / "core").stat().st_size > 2 << 20


@pytest.mark.slow
def test_a_guest_of_a_trio_test(pytester: pytest.Pytester) -> None:
    # Loaded here: with an old Hypothesis that warns.
    pytest.importorskip("pytest_trio.plugin")
    (report,) = failed_reports(
        run(
            pytester,
            """
            import pytest

            @pytest.mark.trio
            async def test_it(async_boot):
                async with async_boot("hang", host="model", memory="2M") as vm:
                    await vm.console.expect("hanging")
                    await vm.console.expect("more", timeout=0.01)
            """,
            "-p",
            "pytest_trio.plugin",
            failed=1,
        )
    )
    (guest,) = guests_of(report)
    assert guest["expected"] == ["'more'"]
    assert guest["vcpus"][0]["place"].startswith("guest_main+")


def test_a_panic_fails_where_the_block_ends(pytester: pytest.Pytester) -> None:
    text, guest = explained(
        pytester,
        """
        def test_it(boot):
            with boot("panic", host="model", append="so") as vm:
                vm.events.wait_for("ended")
        """,
    )
    assert text.startswith("panicked after ")
    assert "  | PANIC: asked to (so)" in text
    assert guest["vcpus"][0]["place"].startswith("guest_crash+")
    assert guest["memory"]


def test_the_command_line_repeats_the_run(
    boot: Boots, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with boot("hello", host="model", memory="7M", append='it\'s a "b" $c') as vm:
        vm.wait()
    program, *arguments = shlex.split(vm.by_hand)
    assert program == "pyvmm"
    assert main(arguments) == 0
    assert capfdbinary.readouterr().out == vm.console.transcript


def test_images_without_symbols_and_vcpus_without_names(pytester: pytest.Pytester) -> None:
    pytester.makefile(".bin", empty="")
    image = pytester.path / "count.bin"
    image.write_bytes(COUNT)
    text, guest = explained(
        pytester,
        """
        def test_it(boot):
            with boot("count.bin", host="model", memory="2M") as vm:
                vm.stop()
                assert 0
        """,
    )
    assert guest["vcpus"][0]["mode"] == "real mode"
    assert guest["vcpus"][0]["place"] == ""
    assert "expected" not in text.replace("expected: (", "")
    assert guest["name"] == "count.bin"


@pytest.mark.slow
def test_it_is_bounded_and_plain(pytester: pytest.Pytester) -> None:
    """Escape sequences of the console are shown, not obeyed; long lines and texts are cut."""
    text, guest = explained(
        pytester,
        """
        def test_it(boot):
            with boot("echo", host="model") as vm:
                vm.console.send(b"\\x1b[31m" + 300 * b"x" + 99 * b"\\nline" + b"\\n\\xff\\n")
                vm.console.expect(b"\\xff\\n")
                assert 0
        """,
    )
    assert len(guest["console"]) == 20
    assert guest["console"][-1] == "\\xff"
    assert guest["console_bytes"] == 5 + 300 + 99 * 5 + 3
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()[:-1])) <= 200


def test_nothing_is_longer_than_it_may_be() -> None:
    endless = Explanation(
        name="x", host="kvm", by_hand="pyvmm", end="it", has_exited=False, seconds=0.0, exits={},
        expected=("a",), nearest="", reason="r", console=("c" * 1000,) * 1000, console_bytes=1,
        vcpus=(), memory=("m",) * 1000, events=("e",) * 1000, remarks=(),
    )  # fmt: skip
    text = endless.to_text()
    assert len(text) < MOST_TEXT + 100
    assert text.endswith("[cut off here]")


def test_a_machine_that_answers_nothing_is_given_up(
    boot: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trio

    from pyvmm.testing.drivers.pyvmm_driver import PyvmmDriver
    from pyvmm.testing.explaining import witness as module

    monkeypatch.setattr(module, "PATIENCE", 0.05)

    async def never(_self: PyvmmDriver) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(PyvmmDriver, "vcpu_states", never)
    seen = Witness()
    boots = Boots(boot._loop, witness=seen)
    with pytest.raises(ExpectError) as raised, boots("hang", host="model") as vm:
        vm.console.expect("never", timeout=0.01)
    explanation = explain(seen.guests[0], raised.value)
    assert explanation.remarks == ("its state could not be had within 0.05 s",)
    assert explanation.vcpus == ()
    assert explanation.expected == ("'never'",)


def test_defects_of_a_driver_are_told_beside_the_tests_own_failure(
    boot: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise LookupError("of ours")

    for name in ("receive", "wait", "vcpu_states", "page_states", "core"):
        monkeypatch.setattr(PyvmmDriver, name, broken)

    def no_path() -> Path:
        raise LookupError("of ours")

    seen = Witness(no_path)
    with (
        pytest.raises(ZeroDivisionError),
        Boots(boot._loop, witness=seen)("hang", host="model") as vm,
    ):
        with pytest.raises(InternalError, match="LookupError: of ours") as raised:
            vm.wait()
        assert isinstance(raised.value.__cause__, LookupError)
        raise ZeroDivisionError
    assert [one.split(":")[0] for one in seen.guests[0].remarks] == [
        "its vCPUs", "its page states", "its core's path",
    ]  # fmt: skip


def test_code_is_disassembled_where_capstone_is() -> None:
    assert disassembled(PRINT_AND_SPIN, 0x7C00, "real mode")[:2] == [
        "0x7c00: mov al, 0x4f",
        "0x7c02: out 0xe9, al",
    ]
    assert disassembled(bytes.fromhex("4889e5"), 0x10, "64-bit mode") == ["0x10: mov rbp, rsp"]
