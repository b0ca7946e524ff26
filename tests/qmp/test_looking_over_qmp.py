# SPDX-License-Identifier: MIT
"""Dumps, statistics and the human monitor through the server, as a client sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from pyvmm.machine.config import HostChoice
from pyvmm.memory.layout import MIB

from .guests import HOSTS
from .talk import names, served, talking


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_client_asks_for_it_gets(host: HostChoice, tmp_path: Path) -> None:
    core = tmp_path / "core"

    async def main() -> None:
        async with served(tmp_path / "qmp", host=host), talking(tmp_path / "qmp") as talk:
            answer = await talk.ask("human-monitor-command", command_line="info status")
            assert answer == {"return": "VM status: running\r\n"}
            answer = await talk.ask("human-monitor-command", command_line="xp /2xb 0x7c00")
            assert answer == {"return": "0000000000007c00: 0xeb 0xfe\r\n"}
            answer = await talk.ask("human-monitor-command", command_line="x")
            assert answer["return"].startswith("unexpected end of expression")
            answer = await talk.ask("human-monitor-command", command_line=7)
            assert answer["error"]["class"] == "GenericError"
            stats = (await talk.ask("query-stats", target="vcpu"))["return"]
            assert bool(stats) == (host is HostChoice.KVM)
            order = {"paging": False, "protocol": f"file:{core}"}
            assert await talk.ask("dump-guest-memory", **order) == {"return": {}}
            assert await talk.ask("dump-guest-memory", **order, detach=True) == {"return": {}}
            while (dump := (await talk.ask("query-dump"))["return"])["status"] == "active":
                await trio.sleep(0.001)
            assert dump == {"status": "completed", "completed": 4 * MIB, "total": 4 * MIB}
            await talk.ask("query-status")
            assert names(talk.events) == ["STOP", "DUMP_COMPLETED", "RESUME"] * 2
            assert talk.events[1]["data"] == {"result": dump}
            answer = await talk.ask("dump-guest-memory", **order | {"protocol": "file:/no/such/x"})
            assert "No such file" in answer["error"]["desc"]

    trio.run(main)
    assert core.stat().st_size > 4 * MIB


def test_a_guest_is_ended_from_the_monitor(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "qmp") as machine, talking(tmp_path / "qmp") as talk:
            assert await talk.ask("human-monitor-command", command_line="quit") == {"return": ""}
            assert (await machine.control.wait()).ending.exit_code == 0
            told = talk.events[0] if talk.events else await talk.line()
            assert told is not None
            assert told["event"] == "SHUTDOWN"
            assert told["data"] == {"guest": False, "reason": "host-qmp-quit"}

    trio.run(main)
