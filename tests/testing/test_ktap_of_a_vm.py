# SPDX-License-Identifier: MIT
"""KTAP that a test reads from a guest's console."""

from __future__ import annotations

import pytest

from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import OutcomeKind
from pyvmm.testing.failures import GuestFailedError
from pyvmm.testing.results.tap_results import TapFailedError, TapStatus

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


def test_a_crash_is_a_failure_even_where_nobody_checks(boot: Boots) -> None:
    with pytest.raises(GuestFailedError), boot("failing") as vm:
        report = vm.console.ktap(check=False)
        assert report.results[-1].name == "missing 8..10"
        assert vm.outcome is not None
        assert vm.outcome.kind is OutcomeKind.PANICKED
