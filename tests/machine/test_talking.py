# SPDX-License-Identifier: MIT
"""Tests that talk with a guest do not wait for one that has ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.machine.config import HostChoice

from .private_machines import Talk, config, talk


async def nothing(_talk: Talk) -> None:
    """Never reached."""
    pytest.fail("the guest has no mailbox")


async def end(with_guest: Talk) -> None:
    """Have the guest end."""
    assert await with_guest.ask("ADD", 2, 3) == 5
    await with_guest.ask("END", 0)


def test_a_guest_that_ends_without_a_mailbox_is_not_waited_for() -> None:
    machine = replace(config("exit", "9"), host=HostChoice.MODEL)
    with pytest.raises(ExceptionGroup) as caught:
        talk(machine, nothing)
    assert caught.group_contains(AssertionError, match="ended without a mailbox")


def test_a_guest_with_a_mailbox_is_talked_with() -> None:
    ended = talk(replace(config("mailbox"), host=HostChoice.MODEL), end)
    assert ended.result.ending.exit_code == 0
