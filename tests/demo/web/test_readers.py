# SPDX-License-Identifier: MIT
"""Readers: tabs of one see the same, those of another do not; what is out of date is not done."""

from __future__ import annotations

import pytest

from pyvmm.demo.house.here import ReadingHere
from pyvmm.errors import HostLacksError
from tests.demo.web.client import LINKS, Server, run


def test_two_tabs_of_a_reader_share_a_machine_and_another_reader_has_an_own() -> None:
    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with (
            server.tab(cookie) as first,
            server.tab(cookie) as second,
            server.tab(await server.enter()) as other,
        ):
            assert server.site.visitors == 2
            for tab in (first, second, other):
                await tab.until("@phase", "asking")
            await first.send(move="skip")
            for tab in (first, second):
                await tab.until("@phase", "showing")
            assert first.parts == second.parts
            assert other.parts["@phase"] == "asking"
            await second.send(move="next", seen=second.number)
            await first.until("@link", LINKS[1])

    run(main)


def test_a_click_on_what_has_changed_meanwhile_does_nothing() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            old = tab.number
            await tab.send(move="next", seen=old)
            await tab.until("@phase", "showing")
            await tab.send(move="next", seen=old)
            await tab.send(predict="none", seen=old)
            # A notice of the player's, which comes behind what those would have done.
            await tab.send(look="7")
            while "no such moment" not in tab.parts["says"]:
                await tab.message()
            assert (tab.parts["@link"], tab.parts["@phase"]) == (LINKS[0], "showing")

    run(main)


def test_a_trial_is_predicted_first_and_shown_beside_the_outcome() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            await tab.send(consider="make-file 0 0 4096")
            told = await tab.message()
            assert told["trial"] == "make-file 0 0 0x1000"
            assert tab.parts["@moments"] == "0"
            await tab.send(move="next")
            await tab.until("@phase", "showing")
            await tab.send(**{"try": "set-slot 0 0 0x800 0x1000", "predicted": "einval"})
            await tab.until("@moments", "2")
            assert "As you predicted" in tab.parts["outcome"]

    run(main)


def test_links_lead_to_a_step_and_moments_are_looked_at() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            await tab.send(jump=LINKS[3])
            await tab.until("@link", LINKS[3])
            await tab.until("@phase", "asking")
            await tab.send(move="skip")
            await tab.until("@phase", "showing")
            await tab.send(move="next")
            while tab.parts["@link"] == LINKS[3]:
                await tab.message()
            await tab.send(look="0")
            await tab.until("@at", "0")
            assert tab.parts["@link"] == LINKS[3]
            await tab.send(jump="nowhere/at-all")
            while "nowhere" not in tab.parts["says"]:
                await tab.message()

    run(main)


@pytest.mark.parametrize(
    "error", [HostLacksError("open a stage", "<b>none</b>"), ValueError("<b>")]
)
def test_a_stage_that_fails_is_told_to_its_reader_alone(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as other:
            await other.until("@phase", "asking")

            async def fails(*_: object) -> None:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(ReadingHere, "carry_out", fails)
                async with server.tab(await server.enter()) as tab:
                    await tab.until("@phase", "lost")
                    assert "There is no machine for you" in tab.parts["mine"]
                    assert "&lt;b&gt;" in tab.parts["mine"]
                    await tab.send(move="next")
                    assert "no machine" in (await tab.message())["notice"]
                    for _ in range(2):  # It fails again, which is told anew.
                        number = tab.number
                        await tab.send(move="restart")
                        while tab.number == number or tab.parts["@phase"] != "lost":
                            await tab.message()
                    assert "There is no machine for you" in tab.parts["mine"]
                    patch.undo()
                    # A place that there is not brings no machine to a halt, either.
                    await tab.send(jump="nowhere")
                    while "nowhere" not in tab.parts["says"]:
                        await tab.message()
                    assert tab.parts["@phase"] == "lost"
                    await tab.send(move="restart")
                    await tab.until("@phase", "asking")
                    assert "mine" not in tab.parts or not tab.parts["mine"]
                    await tab.send(move="next")
                    await tab.until("@phase", "showing")
            await other.send(move="next")
            await other.until("@phase", "showing")

    run(main)
