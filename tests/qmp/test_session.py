# SPDX-License-Identifier: MIT
"""One client's session without a server: what it is answered, beside what QEMU answers."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, ErrorClass, Kind, check
from pyvmm.qmp.served import Served
from pyvmm.qmp.session import Answer, Call, Session
from tests.qmp.streams import CHARACTERS
from tests.qmp.test_wire import BYTES

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "a test"}
HANG = 240.0


async def never(_served: Served, _arguments: Arguments) -> object:
    raise AssertionError("a session carries nothing out")


def declared(name: str, *arguments: Argument) -> Command:
    return Command(name, arguments, never)


# As in QEMU's qapi/*.json.
COMMANDS = {
    command.name: command
    for command in (
        declared("qmp_capabilities", Argument("enable", Kind.LIST, optional=True)),
        declared("query-name"),
        declared(
            "pmemsave",
            Argument("val", Kind.INTEGER),
            Argument("size", Kind.INTEGER),
            Argument("filename", Kind.STRING),
        ),
        declared(
            "dump-guest-memory",
            Argument("paging", Kind.BOOLEAN),
            Argument("protocol", Kind.STRING),
            Argument("detach", Kind.BOOLEAN, optional=True),
            Argument("begin", Kind.INTEGER, optional=True),
            Argument("length", Kind.INTEGER, optional=True),
            Argument("format", Kind.STRING, optional=True, choices=("elf", "kdump-zlib")),
        ),
    )
}


def session() -> Session:
    return Session(VERSION, COMMANDS)


def ask(one: Session, data: bytes) -> list[Any]:
    """Feed `data`; the answers, where every call that gets through returns {}."""
    one.feed(data)
    answers = []
    while (found := one.next()) is not None:
        answer = one.result(found, {}) if isinstance(found, Call) else found
        assert answer.data.endswith(b"\r\n")
        answers.append(json.loads(answer.data))
    return answers


def negotiated() -> Session:
    one = session()
    assert ask(one, b'{"execute":"qmp_capabilities"}') == [{"return": {}}]
    return one


def error(description: str, class_: str = "GenericError", **more: Any) -> dict[str, Any]:
    return {"error": {"class": class_, "desc": description}, **more}


def missing(name: str) -> dict[str, Any]:
    return error(f"The command {name} has not been found", "CommandNotFound")


EXPECTING = error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
COMPLETE = error("Capabilities negotiation is already complete, command ignored", "CommandNotFound")

BEFORE: list[tuple[bytes, dict[str, Any]]] = [
    (b'{"execute": "query-name"}', EXPECTING),
    (b'{"execute": "nonsense", "id": 1}', {**EXPECTING, "id": 1}),
    (b'{"execute": "qmp_capabilities", "arguments": {"enable": "x"}}',
     error("Invalid parameter type for 'enable', expected: array")),
    (b'{"execute": "qmp_capabilities", "arguments": {"enable": [1]}}',
     error("Invalid parameter type for 'enable[0]', expected: string")),
    (b'{"execute": "qmp_capabilities", "arguments": {"enable": ["x"]}}',
     error("Parameter 'null' does not accept value 'x'")),
    (b'{"execute": "qmp_capabilities", "arguments": {"disable": []}}',
     error("Parameter 'disable' is unexpected")),
    (b'{"execute": "query-name"}', EXPECTING),
    (b'{"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": [null]}',
     {"return": {}, "id": [None]}),
]  # fmt: skip
"""In this order, from the greeting on."""

AFTER: list[tuple[bytes, dict[str, Any]]] = [
    (b'{"execute": "qmp_capabilities"}', COMPLETE),
    (b'{"execute": "query-name"}', {"return": {}}),
    (b'{"execute":\n"query-\\u006eame", "arguments":{}}', {"return": {}}),
    (b'{"execute": "query-name", "id": null}', {"return": {}, "id": None}),
    (b'{"execute": "query-name", "id": {"a": [1, "\\u20ac"]}}',
     {"return": {}, "id": {"a": [1, "\u20ac"]}}),
    (b'{"execute": "nonsense"}', missing("nonsense")),
    (b'{"execute": ""}', missing("")),
    (b'{"execute": "query-name", "arguments": {"x": 1}, "id": 3}',
     error("Parameter 'x' is unexpected", id=3)),
    (b'{"execute": "query-name", "arguments": [], "id": 3}',
     error("QMP input member 'arguments' must be an object", id=3)),
    (b'{"execute": "query-name", "arguments": null}',
     error("QMP input member 'arguments' must be an object")),
    (b'{"execute": 1, "id": 3}', error("QMP input member 'execute' must be a string", id=3)),
    (b'{"nonsense": 1, "id": 3}', error("QMP input member 'nonsense' is unexpected", id=3)),
    (b'{"id": 3}', error("QMP input lacks member 'execute'", id=3)),
    (b'{}', error("QMP input lacks member 'execute'")),
    (b'[1, 2]', error("QMP input must be a JSON object")),
    (b'17\n', error("QMP input must be a JSON object")),
    (b'"a"', error("QMP input must be a JSON object")),
    (b'{"execute": "query-name", "execute": "query-name"}',
     error("JSON parse error, duplicate key")),
    (b'{"execute": "pmemsave"}', error("Parameter 'val' is missing")),
    (b'{"execute": "pmemsave", "arguments": {"val": 0, "x": 1}}',
     error("Parameter 'size' is missing")),
    *(
        (b'{"execute": "dump-guest-memory", "arguments":'
         b' {"paging": true, "protocol": "file:f", "begin": %s}}' % value,
         error("Invalid parameter type for 'begin', expected: integer"))
        for value in (b'"0"', b"true", b"1.5", b"9223372036854775808", b"null")
    ),
    (b'{"execute": "pmemsave", "arguments": {"val": 0, "size": 1, "filename": []}}',
     error("Invalid parameter type for 'filename', expected: string")),
    (b'{"execute": "pmemsave", "arguments": {"x": 1, "val": 0, "size": 1, "filename": "f"}}',
     error("Parameter 'x' is unexpected")),
    (b'{"execute": "dump-guest-memory", "arguments": {"paging": 0, "protocol": "file:f"}}',
     error("Invalid parameter type for 'paging', expected: boolean")),
    (b'{"execute": "dump-guest-memory", "arguments":'
     b' {"paging": false, "protocol": "file:f", "format": "x"}}',
     error("Parameter 'format' does not accept value 'x'")),
    (b'{"execute": "query-name", "id": "\\ud800"}',
     error("JSON parse error, \\ud800 is not a valid Unicode character")),
]  # fmt: skip


def test_answers_before_negotiation() -> None:
    one = session()
    for question, expected in BEFORE:
        assert not one.is_negotiated
        assert ask(one, question) == [expected], question
    assert one.is_negotiated


def test_answers_after_negotiation() -> None:
    one = negotiated()
    for question, expected in AFTER:
        assert ask(one, question) == [expected], question


def test_answers_come_in_the_order_of_what_was_asked() -> None:
    one = session()
    stream = b"".join(question for question, _ in BEFORE + AFTER)
    assert ask(one, stream) == [expected for _, expected in BEFORE + AFTER]


@pytest.fixture
def qemu() -> Iterator[socket.socket]:
    """QMP of a QEMU without a machine."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours).settimeout(HANG)
        with theirs:
            process = subprocess.Popen(
                ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none",
                 "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "qmp,mode=control"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        stack.enter_context(process)
        stack.callback(process.kill)
        yield ours


@pytest.mark.qemu
def test_these_are_qemus_answers(qemu: socket.socket) -> None:
    with qemu.makefile("rb") as lines:
        theirs = json.loads(lines.readline())
        ours = json.loads(session().greeting())
        assert theirs["QMP"].keys() == ours["QMP"].keys()
        assert theirs["QMP"]["version"].keys() == ours["QMP"]["version"].keys()
        assert theirs["QMP"]["version"]["qemu"].keys() == ours["QMP"]["version"]["qemu"].keys()
        for question, expected in BEFORE + AFTER:
            qemu.sendall(question + b"\n")
            line = lines.readline()
            assert line.endswith(b"\r\n")
            assert json.loads(line) == expected, question


def test_the_greeting_offers_nothing() -> None:
    assert session().greeting() == (
        b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, '
        b'"package": "a test"}, "capabilities": []}}\r\n'
    )
    refused = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'
    assert ask(session(), refused) == [error("Capability oob not available")]
    assert ask(negotiated(), b'{"exec-oob": "query-name"}') == [
        error("QMP input member 'exec-oob' is unexpected")
    ]


def test_events_only_after_negotiation() -> None:
    one = session()
    assert one.event("STOP", None, 1.0) is None
    ask(one, b'{"execute":"qmp_capabilities"}')
    stopped = one.event("STOP", None, 1234.000001)
    assert stopped == Answer(
        b'{"timestamp": {"seconds": 1234, "microseconds": 1}, "event": "STOP"}\r\n'
    )
    reset = one.event("RESET", {"guest": False}, 1.9999996)
    assert reset is not None
    assert json.loads(reset.data) == {
        "timestamp": {"seconds": 2, "microseconds": 0},
        "event": "RESET",
        "data": {"guest": False},
    }


def test_a_call_has_its_arguments_checked() -> None:
    one = negotiated()
    one.feed(b'{"execute":"pmemsave","id":7,"arguments":{"size":2,"filename":"f","val":-1}}')
    call = one.next()
    assert isinstance(call, Call)
    assert call.command is COMMANDS["pmemsave"]
    assert call.arguments == {"val": -1, "size": 2, "filename": "f"}
    assert one.next() is None
    refused = one.failure(call, CommandError("no", ErrorClass.DEVICE_NOT_FOUND))
    assert json.loads(refused.data) == error("no", "DeviceNotFound", id=7)


@pytest.mark.parametrize(
    ("given_", "taken"),
    [(0, 0), ((1 << 64) - 1, (1 << 64) - 1), (-1, (1 << 64) - 1), (-(1 << 63), 1 << 63)],
)
def test_a_size_is_taken_modulo_64_bits(given_: int, taken: int) -> None:
    sized = declared("resize", Argument("size", Kind.SIZE))
    one = Session(VERSION, {**COMMANDS, "resize": sized})
    ask(one, b'{"execute":"qmp_capabilities"}')
    one.feed(json.dumps({"execute": "resize", "arguments": {"size": given_}}).encode())
    call = one.next()
    assert isinstance(call, Call)
    assert call.arguments["size"] == taken


@pytest.mark.parametrize("given_", ["1", 1.5, True, None, 1 << 64, -(1 << 63) - 1])
def test_what_is_no_size_is_refused_in_qemus_words(given_: object) -> None:
    with pytest.raises(CommandError, match=r"^Parameter 'size' expects uint64$"):
        check([Argument("size", Kind.SIZE)], {"size": given_})


def test_what_json_cannot_say_is_no_answer() -> None:
    one = negotiated()
    one.feed(b'{"execute":"query-name"}')
    call = one.next()
    assert isinstance(call, Call)
    for value in (float("nan"), object(), {1: b""}):
        with pytest.raises((TypeError, ValueError)):
            one.result(call, value)


@given(BYTES)
def test_garbage_is_answered_with_errors_and_the_session_goes_on(data: bytes) -> None:
    one = negotiated()
    for answer in ask(one, data):
        assert set(answer) <= {"error", "id"}
        assert answer["error"]["class"] in {"GenericError", "CommandNotFound"}
    ask(one, b'\xff\n"\n')
    assert ask(one, b'{"execute":"query-name","id":1}\n') == [{"return": {}, "id": 1}]


NAMES = st.sampled_from(
    ["execute", "exec-oob", "arguments", "id", "enable", "val", "size", "filename", "paging", "x"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([*COMMANDS, "oob", ""]) | st.text(CHARACTERS, max_size=5)
)  # fmt: skip
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(NAMES, SCALARS, max_size=3)
REQUESTS = st.dictionaries(NAMES, VALUES, max_size=3) | st.fixed_dictionaries(
    {"execute": st.sampled_from([*COMMANDS])},
    optional={"arguments": st.dictionaries(NAMES, SCALARS, max_size=4), "id": VALUES},
)


@given(st.booleans(), st.lists(REQUESTS, max_size=3))
def test_every_object_has_one_answer_with_its_id(
    ready: bool, requests: list[dict[str, Any]]
) -> None:
    one = negotiated() if ready else session()
    answers = ask(one, b"".join(json.dumps(request).encode() for request in requests))
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert ("return" in answer) != ("error" in answer)
        assert ("id" in answer) == ("id" in request)
