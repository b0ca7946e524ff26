# SPDX-License-Identifier: MIT
"""Hostile clients: whatever they send, they get an error object, and the guest goes on."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyvmm.qmp.wire import MESSAGE_LIMIT, NESTING_LIMIT
from tests.machine.inside import is_paused
from tests.qmp.guests import drive
from tests.qmp.streams import CHARACTERS
from tests.qmp.talk import Talk, served, talking

MIB = 1 << 20
STATUS = b'\n{"execute": "query-status", "id": "still here"}\n'


async def goes_on(talk: Talk) -> None:
    """Whatever was sent before, on the next line a command is answered."""
    await talk.send(STATUS)
    while True:
        answer = await talk.answer()
        if answer.get("id") == "still here":
            assert answer["return"]["running"] is True
            return
        assert set(answer) - {"id"} in ({"error"}, {"return"})


def is_error(answer: dict[str, object]) -> bool:
    error = answer.get("error")
    return isinstance(error, dict) and set(error) == {"class", "desc"}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x00\x01\x02",
        b"\xff\xfe\xfd",
        b'{"execute": "query-\xc3\x28"}',
        b'{"execute": "query-\\ud800"}',
        b'{"execute": "x", "execute": "y"}',
        b'{"execute": 1e999}',
        b"]",
        b'{"a": }',
        b"NaN",
        b"[" * (NESTING_LIMIT + 1),
        b'{"a":' * (NESTING_LIMIT + 1),
        b'{"execute": "no-such"}',
        b'{"execute": "stop", "arguments": {"unknown": 1}}',
        b'{"execute": "stop", "arguments": []}',
        b'{"execute": {}}',
        b"17 ",
        b'"text"',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_garbage_is_answered_with_an_error(garbage: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "qmp") as machine, talking(tmp_path / "qmp") as talk:
            await talk.send(garbage + b"\n")
            assert is_error(await talk.answer())
            await goes_on(talk)
            assert not is_paused(machine)

    drive(main)


def test_half_a_message_and_its_other_half(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "qmp"), talking(tmp_path / "qmp") as talk:
            for byte in b'{"execute":\n"query-\\u0073tatus",\n"id": 1}':
                await talk.send(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert (await talk.answer())["id"] == 1
            await talk.send(b'{"execute": "query-sta')  # And then it hangs up.

    drive(main)


@pytest.mark.slow
@pytest.mark.parametrize(
    "opening", [b'{"execute": "', b"[", b"1", b"x", b'{"id": [' + b"1," * 1000]
)
def test_forty_mebibytes_without_a_newline(opening: bytes, tmp_path: Path) -> None:
    """What is kept of it is bounded; its end is found, and the session goes on."""

    async def main() -> None:
        async with served(tmp_path / "qmp"), talking(tmp_path / "qmp") as talk:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await talk.send(opening)
                    for _ in range(640):
                        await talk.send(b"1" * 65536)
                    await talk.send(STATUS)

                nursery.start_soon(send)
                answers = []
                while (answer := await talk.answer()).get("id") != "still here":
                    answers.append(answer)
            assert answers
            assert all(map(is_error, answers))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 20 * MIB >> 10

    drive(main)


def test_an_answer_is_no_longer_than_the_question_by_much(tmp_path: Path) -> None:
    """An id comes back as it was, however large it may be."""

    async def main() -> None:
        async with served(tmp_path / "qmp"), talking(tmp_path / "qmp") as talk:
            identity = {"text": "\u20ac" * (MESSAGE_LIMIT // 8), "deep": [[[[1.5, None, True]]]]}
            request = {"execute": "query-kvm", "id": identity}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk.send, json.dumps(request, ensure_ascii=False).encode())
                answer = await talk.answer()
            assert answer["id"] == identity

    drive(main)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(CHARACTERS, max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["execute", "arguments", "id", "enable", "val", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
HARMLESS = [
    "qmp_capabilities", "query-version", "query-commands", "query-status", "cont", "query-kvm",
    "query-stats", "query-memory-devices", "query-cpus-fast", "x-pyvmm-query-exits", "nonsense",
]  # fmt: skip
REQUESTS = st.fixed_dictionaries(
    {"execute": st.sampled_from(HARMLESS)},
    optional={
        "arguments": st.dictionaries(st.text(CHARACTERS, max_size=8), JSON, max_size=3),
        "id": JSON,
    },
)
PIECES = st.lists(
    st.binary(max_size=40)
    | st.builds(lambda value: json.dumps(value).encode(), JSON)
    | st.builds(lambda value: json.dumps(value).encode() + b"\r\n", REQUESTS)
    | st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\xff", b'{"execute":']),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(PIECES, st.booleans()), min_size=1, max_size=6))
@example(rounds=[([b'{"execute":"qmp_capabilities"}'], True), ([b"\xff{"], False)])
def test_no_sequence_of_clients_hurts(rounds: list[tuple[list[bytes], bool]]) -> None:
    """Each sends its pieces, then hangs up or stays to be answered."""

    async def main() -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "qmp"
            async with served(path) as machine:
                for pieces, stays in rounds:
                    talk = await (await Talk.connect(path)).ready()
                    for piece in pieces:
                        await talk.send(piece)
                        await trio.lowlevel.checkpoint()
                    if stays:
                        # What is open would go on for ever: this gives it up.
                        await talk.send(b"\xff\n")
                        await goes_on(talk)
                    talk.close()
                assert machine.control.ending is None
                assert not is_paused(machine)

    drive(main)
