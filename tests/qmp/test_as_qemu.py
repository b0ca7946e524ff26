# SPDX-License-Identifier: MIT
"""The same bytes, sent to QEMU and to a session of ours, have the same answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.qmp.streams import CHARACTERS, STREAMS
from tests.qmp.test_session import ask, negotiated

HANG = 240.0
RESET = b"\xff\n"
"""Ends whatever was begun, with an error at least."""


class Qemu:
    """A QEMU that answers over a socket."""

    def __init__(self, connection: socket.socket, lines: BinaryIO) -> None:
        self._connection = connection
        self._lines = lines
        self._asked = 0
        assert "QMP" in json.loads(self._lines.readline())
        assert self.ask(b'{"execute":"qmp_capabilities"}') == [{"return": {}}]

    def ask(self, data: bytes) -> list[Any]:
        """The answers to `data`, without the one to what ends it (see RESET)."""
        self._asked += 1
        last = {"execute": "query-name", "id": f"end {self._asked}"}
        self._connection.sendall(data + RESET + json.dumps(last).encode() + b"\n")
        answers = []
        while (answer := json.loads(self._lines.readline())).get("id") != last["id"]:
            answers.append(answer)
        assert (
            answers.pop()
            == {"error": {"class": "GenericError", "desc": "JSON parse error, stray '\ufffd'"}}
            or data
        )
        return answers


@pytest.fixture(scope="module")
def qemu() -> Iterator[Qemu]:
    """One QEMU for all of them; it executes nothing."""
    here, there = socket.socketpair()
    here.settimeout(HANG)
    with here, there, here.makefile("rb") as lines:
        command = [
            "qemu-system-x86_64", "-M", "none", "-display", "none", "-S", "-nodefaults",
            "-chardev", f"socket,id=qmp,fd={there.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        with subprocess.Popen(command, pass_fds=[there.fileno()]) as process:
            there.close()
            try:
                yield Qemu(here, lines)
            finally:
                process.kill()


def ours(data: bytes) -> list[Any]:
    """A session's answers to the same."""
    answers = ask(negotiated(), data + RESET)
    assert answers.pop()["error"]["desc"].endswith("\ufffd'")
    return answers


def alike(answers: list[Any]) -> list[Any]:
    """Without what depends on the order of an object's members, in QEMU that of their hashes."""
    for answer in answers:
        error = answer.get("error", {})
        # A member's name may have line breaks.
        error["desc"] = re.sub(
            r"(?s)^QMP input (member|lacks).*", "a member", error.get("desc", "")
        )
    return answers


@pytest.mark.qemu
@pytest.mark.parametrize("stream", [stream for stream, _ in STREAMS])
def test_a_stream_of_the_table(qemu: Qemu, stream: bytes) -> None:
    assert ours(stream) == qemu.ask(stream)


TOKENS = [
    *(bytes((c,)) for c in b"{}[]:,\"'\\\n\r\t 019-+.eE%#\x00\x1f\x7f\x80\xc3\xfe\xffaz"),
    b"true", b"null", b'"a"', b"'a'", b'"execute"', b"'query-name'", b'"id"', b'{"execute":"x"}',
    b"\\u", b"\\ud800", b"\\udc00", b"\\u0000", b"\xed\xa0\x80", b"\xef\xbf\xbf", b"\xc3\xa9",
    b"\xf0\x9f\x98\x80", b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809",
    b"1.5e300",
]  # fmt: skip
BROKEN = st.lists(st.sampled_from(TOKENS), max_size=24).map(b"".join) | st.binary(max_size=24)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARACTERS, max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=3), inner)
    ),
    max_leaves=8,
)
REQUESTS = st.builds(
    lambda id_, raw: json.dumps({"execute": "query-name", "id": id_}, ensure_ascii=not raw).encode(
        "utf-8", "surrogatepass"
    ),
    JSON,
    st.booleans(),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with some bytes replaced."""
    request = bytearray(draw(REQUESTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(request) - 1))
        request[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(TOKENS))
    return bytes(request)


@pytest.mark.qemu
@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(BROKEN | REQUESTS | damaged(), max_size=4).map(b"".join))
@example(b'{"execute":"query-name","id":[' + b"[" * 250 + b"]" * 250 + b"]}")
def test_any_stream(qemu: Qemu, stream: bytes) -> None:
    answers = ours(stream)
    # What QEMU takes for infinite.
    assume(not any("out of range" in str(answer.get("error")) for answer in answers))
    assert alike(answers) == alike(qemu.ask(stream))


@pytest.mark.qemu
def test_another_client_need_not_know_what_the_last_one_left(qemu: Qemu) -> None:
    for half in (b'{"a": [', b'"text', b"'text\\", b"12", b"tru", b"#"):
        assert qemu.ask(half) == ours(half)
