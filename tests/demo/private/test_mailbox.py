# SPDX-License-Identifier: MIT
"""The page that host and guest share is to the host what it is to the guest."""

from __future__ import annotations

import pytest

from pyvmm.demo.stage import mailbox
from pyvmm.demo.stage.mailbox import Mail, Mailbox
from pyvmm.errors import InternalError
from tests.guest.building import defines

MAIL = defines("mailbox.h")
CHANNEL = {name: MAIL[f"MAIL_{name}"] for name in ("HOST_ASKS", "GUEST_ASKS")}
OFFSETS = ("REQUEST", "ANSWER", "COMMAND", "RESULT", "ARGUMENTS", "ARGUMENTS_MAX", "MAGIC")


class Page:
    """A page, shared or not."""

    def __init__(self) -> None:
        self.data = bytearray(4096)
        self.data[:8] = mailbox.MAGIC.to_bytes(8, "little")
        self.is_shared = True

    def read(self, gpa: int, size: int) -> bytes | None:
        return bytes(self.data[gpa : gpa + size]) if self.is_shared else None

    def write(self, gpa: int, data: bytes) -> bool:
        self.data[gpa : gpa + len(data)] = data
        return self.is_shared


def test_it_is_as_in_the_header() -> None:
    for name in OFFSETS:
        assert getattr(mailbox, name) == MAIL[f"MAIL_{name}"], name
    assert {name: getattr(mailbox, name) for name in CHANNEL} == CHANNEL
    assert MAIL["MAIL_PATTERN"] == mailbox.PATTERN
    assert MAIL["MAIL_INVALID"] == mailbox.INVALID + (1 << 64)
    rest = {*OFFSETS, *CHANNEL, "PATTERN", "INVALID"}
    names = {name.removeprefix("MAIL_") for name in MAIL} - rest
    assert {one.name: one.value for one in Mail} == {name: MAIL[f"MAIL_{name}"] for name in names}


def test_a_request_is_open_until_it_is_answered() -> None:
    page = Page()
    host = Mailbox(page, 0)
    assert host.is_answered
    host.post(Mail.ADD, 1, -2)
    assert not host.is_answered
    assert page.data[64 + 40 : 64 + 48] == b"\xfe" + b"\xff" * 7
    with pytest.raises(InternalError, match="has not answered"):
        host.post(Mail.END)
    page.data[64 + 24 : 64 + 32] = b"\xff" * 8
    page.data[64 + 8] = 1
    assert host.is_answered
    assert host.result == -1
    assert host.guest_asks() is None
    page.data[128], page.data[128 + 16], page.data[128 + 32] = 1, 33, 7
    assert host.guest_asks() == (Mail.LOOK, 7, 0)
    host.answer(-1)
    assert host.guest_asks() is None


def test_a_page_that_is_not_shared_is_no_mailbox() -> None:
    page = Page()
    host = Mailbox(page, 0)
    page.is_shared = False
    with pytest.raises(InternalError, match="not shared"):
        host.post(Mail.END)
    page.is_shared, page.data[0] = True, 0
    with pytest.raises(InternalError, match="there is no mailbox at gpa 0x0"):
        Mailbox(page, 0)
