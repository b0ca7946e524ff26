# SPDX-License-Identifier: MIT
"""Saving and looking at memory through the server, as a client sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pyvmm.memory.layout import MIB
from pyvmm.qmp import server
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of

from .talk import Talk, names, served, talking


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A FIFO that is open for reading, and not read."""
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    yield tmp_path / "fifo"
    os.close(end)


def content(path: Path) -> bytes:
    return path.read_bytes()


def test_what_a_client_asks_for_it_gets(path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"

    async def main() -> None:
        async with served(path) as machine, talking(path) as talk:
            ram_of(machine).write(MIB, b"to be saved")
            given = {"val": MIB, "size": 11, "filename": str(saved)}
            for name in ("pmemsave", "memsave"):
                assert await talk.ask(name, **given) == {"return": {}}
                assert content(saved) == b"to be saved"
            assert await talk.ask("x-pyvmm-pmemsave", **given) == {"return": {"left-out": []}}
            answer = await talk.ask("pmemsave", **given | {"val": 1 << 40})
            assert answer["error"]["class"] == "GenericError"
            answer = await talk.ask("pmemsave", **given | {"size": "11"})
            assert "'size', expected: integer" in answer["error"]["desc"]
            (run,) = (await talk.ask("x-pyvmm-query-page-states"))["return"]["runs"]
            assert run["state"] == "shared"
            handles = (await talk.ask("x-pyvmm-query-handles"))["return"]["handles"]
            assert {one["kind"] for one in handles} >= {"system", "vm", "vcpu", "mapping"}
            vcpus = (await talk.ask("x-pyvmm-query-exits"))["return"]["vcpus"]
            assert [one["cpu-index"] for one in vcpus] == [0]
            answer = await talk.ask("x-pyvmm-convert", start=0, size=PAGE_SIZE, to="private")
            assert answer["error"]["desc"].startswith("NO_PRIVATE_MEMORY")

    trio.run(main)


def save_all_to(fifo: Path) -> bytes:
    arguments = {"val": 0, "size": 4 * MIB, "filename": str(fifo)}
    return json.dumps({"execute": "pmemsave", "arguments": arguments}).encode() + b"\n"


@pytest.mark.slow
def test_page_states_are_told_while_memory_is_saved(path: Path, fifo: Path) -> None:
    async def main() -> None:
        async with served(path), talking(path) as saving, talking(path) as other:
            await saving.send(save_all_to(fifo))
            assert "return" in await other.ask("x-pyvmm-query-page-states")

    trio.run(main)


def test_the_end_of_the_guest_ends_saving(
    path: Path, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.05)

    async def main() -> None:
        async with served(path) as machine:
            talk = await (await Talk.connect(path)).ready()
            await talk.send(save_all_to(fifo))
            end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            await trio.lowlevel.wait_readable(end)
            os.close(end)
            machine.control.interrupt("enough")
            await machine.control.wait()
        assert names(await talk.rest()) == ["SHUTDOWN"]
        talk.close()

    trio.run(main)
    assert len([name for name in os.listdir("/proc/self/fd") if is_open_at(name, fifo)]) == 1


def is_open_at(name: str, path: Path) -> bool:
    return os.path.realpath(f"/proc/self/fd/{name}") == str(path)
