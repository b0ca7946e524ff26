# SPDX-License-Identifier: MIT
"""Results from a process that a guest may have taken over: they are read, or refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.testing.drivers.driver import OutcomeKind
from pyvmm.testing.matrix.frames import RESULT_MAX, receive_result
from pyvmm.testing.matrix.result_bytes import from_bytes, to_bytes
from pyvmm.testing.matrix.results import EXPLANATION, Artifact, BootResult, Verdict
from tests.testing.matrix.made import boots, outcome, result

WHOLE = replace(
    result(boots()[0], Verdict.FAILED, "a reason \udcff"),
    console=bytes(range(256)),
    artifacts=(Artifact(EXPLANATION, b"\0\xff"),),
)


@pytest.mark.parametrize("kind", OutcomeKind)
def test_a_result_comes_as_it_was(kind: OutcomeKind) -> None:
    one = replace(WHOLE, outcome=outcome(kind, 3, "why"))
    assert from_bytes(to_bytes(one)) == one
    bare = BootResult("a/1M-1cpu-kvm", Verdict.LOST)
    assert from_bytes(to_bytes(bare)) == bare


def test_texts_that_are_too_long_are_cut_by_who_writes() -> None:
    one = replace(WHOLE, reason="x" * 100_000)
    assert len(from_bytes(to_bytes(one)).reason) == 1 << 16


def changed(change: Callable[[Any], None]) -> bytes:
    fields = json.loads(to_bytes(WHOLE))
    change(fields)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(WHOLE),
        b"",
        b"[]",
        b"[" * 100_000,
        b"9" * 10_000,
        changed(lambda one: one.pop("console")),
        changed(lambda one: one.update(verdict="fine")),
        changed(lambda one: one.update(verdict=[])),
        changed(lambda one: one.update(reason=1)),
        changed(lambda one: one.update(reason="x" * 100_000)),
        changed(lambda one: one.update(seconds=float("nan"))),
        changed(lambda one: one.update(seconds=-1.0)),
        changed(lambda one: one.update(attempts=True)),
        changed(lambda one: one.update(attempts=-1)),
        changed(lambda one: one.update(console="%")),
        changed(lambda one: one.update(artifacts=[["../x", ""]])),
        changed(lambda one: one.update(artifacts=[[EXPLANATION]])),
        changed(lambda one: one.update(artifacts=[[]] * 2000)),
        changed(lambda one: one["outcome"].update(status=1 << 40)),
        changed(lambda one: one["outcome"].update(exits={str(i): 1 for i in range(2000)})),
        changed(lambda one: one["outcome"].pop("kind")),
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_bytes(content)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_bytes(content)


def test_a_length_beyond_all_results_is_refused_before_it_is_waited_for() -> None:
    async def main() -> None:
        from_it, to_us = os.pipe()
        async with trio.lowlevel.FdStream(to_us) as end, trio.lowlevel.FdStream(from_it) as stream:
            await end.send_all(struct.pack(">Q", RESULT_MAX + 1))
            with pytest.raises(ValueError, match="bytes, more than 67108864"):
                await receive_result(stream)

    trio.run(main)
