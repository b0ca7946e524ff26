# SPDX-License-Identifier: MIT
"""KTAP that a test reads from a guest's console."""

from __future__ import annotations

import pytest

from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import OutcomeKind
from pyvmm.testing.failures import GuestFailedError
from pyvmm.testing.results.tap_results import TapFailedError, TapStatus
from pyvmm.testing.transcript import Transcript

from .serial_guest import printing

OK = "KTAP version 1\n1..2\nok 1 a\nok 2 b # SKIP why\n"


def test_results_are_read_and_what_follows_is_left(boot: Boots) -> None:
    with boot(printing(f"booting\n{OK}shell ready\n{OK}")) as vm:
        vm.console.expect("booting")
        report = vm.console.ktap()
        assert {each.name: each.status for each in report.results} == {
            "a": TapStatus.PASSED,
            "b": TapStatus.SKIPPED,
        }
        assert vm.console.expect("shell ready").before == b""
        assert vm.console.ktap().passed


def test_failed_tests_fail_the_test_unless_it_looks_itself(boot: Boots) -> None:
    text = "KTAP version 1\n1..2\n# it is broken\nnot ok 1 a # ERROR no disk\nok 2 b\n"
    with boot(printing(text, 1)) as vm, pytest.raises(TapFailedError) as raised:
        vm.console.ktap()
    assert str(raised.value) == (
        "the guest's tests have not passed: 1 failed, 1 passed\na: no disk\n  | # it is broken"
    )
    with boot(printing(text, 1)) as vm:
        assert [each.name for each in vm.console.ktap(check=False).failures] == ["a"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("KTAP version 1\n1..2\nok 1 a\n", "missing 2: planned, but no result came"),
        ("KTAP version 1\n1..0\n", "no tests"),
        ("hello\n", "no version line of KTAP or TAP came"),
    ],
)
def test_a_guest_that_ends_ends_the_reading(boot: Boots, text: str, told: str) -> None:
    with boot(printing(text)) as vm, pytest.raises(TapFailedError, match=told):
        vm.console.ktap()


def test_the_error_at_a_time_limit_has_what_came(boot: Boots) -> None:
    with boot(printing("KTAP version 1\n1..2\nok 1 a\n", -1)) as vm:
        vm.console.expect("ok 1 a\n")
        vm.console._inner._cursor = 0
        with pytest.raises(TapFailedError, match="within 0 s, this call's own") as raised:
            vm.console.ktap(timeout=0)
    assert [each.name for each in raised.value.report.results] == ["a", "missing 2"]
    assert str(raised.value).endswith(
        "the console ended with:\n  | KTAP version 1\n  | 1..2\n  | ok 1 a"
    )


@pytest.mark.slow
def test_the_boots_time_limit_is_named_with_the_consoles_end(boot: Boots) -> None:
    with boot(printing("not a test at all\n", -1), timeout=1) as vm:
        with pytest.raises(TapFailedError) as raised:
            vm.console.ktap(check=False)
    first, *others = str(raised.value).splitlines()
    assert first == "read KTAP: not within 1 s, the boot's time limit: no tests until then"
    assert others[-2:] == ["the console ended with:", "  | not a test at all"]


def test_a_line_ends_with_a_newline_and_with_nothing_else(boot: Boots) -> None:
    text = "KTAP version 1\n1..2\n10%\r50%\nok 1 a\r\n# half\x0b\x1c\x85 \r"
    with boot(printing(f"{text}\nok 2 b\nrest", -1)) as vm:
        assert vm.console.ktap(timeout=50).passed
        assert vm.console.expect("rest").before == b""


def test_what_was_searched_for_the_end_of_a_line_is_not_searched_again(
    boot: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def find(self: Transcript, wanted: bytes, offset: int) -> int:
        searched.append(self.end - offset)
        return found(self, wanted, offset)

    found = Transcript.find
    monkeypatch.setattr(Transcript, "find", find)
    text = "\r".join(f"{part}%" for part in range(2000))
    with boot(printing(f"KTAP version 1\n1..1\n{text}\nok 1 a\n")) as vm:
        assert vm.console.ktap().passed
    # At most once for all, and once more from each line's end.
    assert sum(searched) <= len(text) + 5 * max(searched)


def test_a_crash_is_a_failure_even_where_nobody_checks(boot: Boots) -> None:
    with pytest.raises(GuestFailedError), boot("failing") as vm:
        report = vm.console.ktap(check=False)
        assert report.results[-1].name == "missing 8..10"
        assert vm.outcome is not None
        assert vm.outcome.kind is OutcomeKind.PANICKED
