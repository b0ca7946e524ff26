# SPDX-License-Identifier: MIT
"""docs/boot-tests.md: everything that the plugin defines, every argument, every method."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pyvmm.testing import CannotError, EventName, ExpectError, GuestFailedError, Match, Outcome
from pyvmm.testing.console import AsyncConsole
from pyvmm.testing.drivers.driver import Event, Registers
from pyvmm.testing.images.symbols import Symbols
from pyvmm.testing.network.networks import Network
from pyvmm.testing.network.ports import Port
from pyvmm.testing.request import BootArguments
from pyvmm.testing.results.tap_results import TapReport
from pyvmm.testing.vm import AsyncVm
from pyvmm.testing.vm_events import AsyncEvents
from pyvmm.testing.vm_memory import AsyncMemory
from tests.distribution.wheels import ROOT

REFERENCE = (ROOT / "docs" / "boot-tests.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = {
    word
    for text in _BLOCK.findall(REFERENCE) + re.findall(r"`([^`\n]+)`", _BLOCK.sub("", REFERENCE))
    for word in re.findall(r"--[\w-]+|\w+", text)
}
"""Words that stand in the reference as code."""


SET_AT_FIRST = {Network: {"ip", "address"}, Port: {"name", "mac", "mtu", "address"}}
"""Attributes of objects, which their classes do not show."""
_INSIDE = {"ask", "close", "record", "taken", "told_mtu"}
"""Names of networks and ports that are not for tests."""


def table(heading: str) -> set[str]:
    """Names in the first column of the table with this heading: each word before a bracket."""
    start = REFERENCE.rindex(f"\n| {heading} |")  # Fixtures have rows of that name before.
    rows = REFERENCE[start : REFERENCE.index("\n\n", start)].splitlines()[3:]
    code = (re.sub(r"\([^`]*\)", "", row.split(" |")[0]) for row in rows)
    return {name for each in code for name in re.findall(r"`(\w+)=?`", each)}


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`vm`", AsyncVm),
        ("`vm.console`", AsyncConsole),
        ("`vm.memory`", AsyncMemory),
        ("`vm.events`", AsyncEvents),
        ("`network`", Network),
        ("`port`", Port),
    ],
)
def test_every_method_has_a_row_and_only_those(heading: str, kind: type) -> None:
    unsaid = {AsyncVm: {"console", "memory", "events"}, Network: _INSIDE, Port: _INSIDE}
    shown = public(kind) | SET_AT_FIRST.get(kind, set())
    assert table(heading) == shown - unsaid.get(kind, set())


def test_every_argument_of_a_boot_has_a_row_and_only_those() -> None:
    assert table("argument") == {"image", *BootArguments.__annotations__}


@pytest.mark.parametrize("kind", [Event, Match, Outcome, Registers, Symbols, TapReport])
def test_every_field_of_what_is_given_is_named(kind: type) -> None:
    fields = {each.name for each in dataclasses.fields(kind)} if _is_data(kind) else set()
    names = {name for name in fields | public(kind) if not name.startswith("_")}
    assert names - {"numbered"} <= CODE


def _is_data(kind: type) -> bool:
    return dataclasses.is_dataclass(kind)


def test_every_event_and_error_is_named() -> None:
    assert {event.value for event in EventName} <= CODE
    errors = (CannotError, ExpectError, GuestFailedError)
    assert {error.__name__ for error in errors} <= CODE


def test_every_fixture_mark_option_and_setting_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pytest tells of them."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pyvmm.testing.plugin")
    told = pytester.runpytest_inprocess("--help").stdout.str()
    options = set(re.findall(r"--pyvmm-[\w-]+", told))
    assert {"--pyvmm-host", "--pyvmm-require", "--pyvmm-ktap", "--pyvmm-images"} <= options
    settings = set(re.findall(r"^  (pyvmm_\w+)", told, re.MULTILINE))
    assert "pyvmm_images" in settings
    told = pytester.runpytest_inprocess("--markers").stdout.str()
    marks = set(re.findall(r"^@pytest\.mark\.(pyvmm\w*)", told, re.MULTILINE))
    assert "pyvmm" in marks
    told = pytester.runpytest_inprocess("--fixtures").stdout.str()
    fixtures = set(re.findall(r"^(\w+)(?: \[\w+ scope\])? -- .*pyvmm/testing/", told, re.MULTILINE))
    assert {"boot", "async_boot", "booted", "session_boot"} <= fixtures
    assert options | settings | marks | fixtures <= CODE
