# SPDX-License-Identifier: MIT
"""A lecture: one machine, the teacher's; the others follow, predict, and may leave."""

from __future__ import annotations

from html import escape

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.telling.player import Plain
from pyvmm.demo.web import visitors
from pyvmm.demo.web.admission import Role
from pyvmm.demo.web.messages import Asked, LeaveLecture, LeaveMachine
from tests.demo.web.client import LINKS, Server, Tab, run

QUESTION = BOOK.chapters[0].steps[0].question
assert QUESTION is not None
CHOICE = QUESTION.choices[-1]
STEPS = zip(LINKS[1:], BOOK.chapters[0].steps[1:], strict=True)
OTHER = next(link for link, step in STEPS if step.question is not None)


async def until_in(tab: Tab, name: str, words: str) -> None:
    while words not in tab.parts.get(name, ""):
        await tab.message()


def test_the_teachers_step_moves_everybodys() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as early:
            await until_in(early, "mine", "Wait for the teacher")
            await early.send(predict=CHOICE.key)
            assert "Wait for the teacher" in (await early.message())["notice"]
            async with server.tab(await server.enter(Role.TEACHER)) as teacher:
                await teacher.until("@phase", "asking")
                assert teacher.parts["@role"] == "teacher"
                await until_in(teacher, "tally", "1 following")
                await until_in(early, "mine", "")
                await early.until("@phase", "asking")
                assert early.parts["@role"] == "follower"
                for wish in ({"move": "next"}, {"jump": "slots"}, {"try": "look"}, {"look": "0"}):
                    await early.send(**wish)
                    assert "leave the lecture" in (await early.message())["notice"]
                await early.send(predict="nonsense")
                assert "no such answer" in (await early.message())["notice"]
                await early.send(predict=CHOICE.key)
                await until_in(early, "mine", f"You predicted: {escape(CHOICE.words)}")
                await until_in(teacher, "tally", "1 predicted")
                assert f"<b>1</b> {escape(CHOICE.words)}" in teacher.parts["tally"]
                assert "mine" not in teacher.parts
                await teacher.send(move="next")
                await until_in(early, "mine", "It was: ")
                await teacher.until("@phase", "showing")
                await early.until("@phase", "showing")
                assert early.parts["outcome"] == teacher.parts["outcome"] != ""
                async with server.tab(await server.enter()) as late:
                    await late.until("@link", teacher.parts["@link"])
                    assert late.parts["outcome"] == teacher.parts["outcome"]
                    assert late.parts["says"] == teacher.parts["says"]
                    await until_in(teacher, "tally", "2 following")
                    await teacher.send(jump=OTHER)
                    await early.until("@link", OTHER)
                    await early.until("@phase", "asking")
                    await early.until("mine", "")
                    await until_in(teacher, "tally", "0 predicted")

    run(main, is_lecture=True)


def test_who_leaves_the_lecture_has_a_machine_and_the_lecture_goes_on() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter(Role.TEACHER)) as teacher:
            await teacher.until("@phase", "asking")
            await teacher.send(leave="lecture")
            assert "follow no lecture" in (await teacher.message())["notice"]
            async with server.tab(await server.enter()) as tab:
                await tab.until("@role", "follower")
                await tab.send(leave="lecture")
                await tab.until("@role", "reader")
                await tab.until("@phase", "asking")
                await tab.send(move="next")
                await tab.until("@phase", "showing")
                assert teacher.parts["@phase"] == "asking"
                await tab.send(leave="lecture")
                assert "follow no lecture" in (await tab.message())["notice"]
            await until_in(teacher, "tally", "nobody follows")
            await teacher.send(move="next")
            await teacher.until("@phase", "showing")

    run(main, is_lecture=True)


def test_followers_wait_when_the_teacher_has_gone_and_see_the_next_one() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            cookie = await server.enter(Role.TEACHER)
            async with server.tab(cookie) as teacher:
                await teacher.until("@phase", "asking")
                await tab.until("@phase", "asking")
                await teacher.send(leave="machine")
                assert await teacher.closed_with() == 1001
            await until_in(tab, "mine", "Wait for the teacher")
            async with server.tab(cookie) as teacher:
                await teacher.until("@phase", "asking")
                await tab.until("@phase", "asking")
                visitors.GRACE = 0
            await until_in(tab, "mine", "Wait for the teacher")

    run(main, is_lecture=True)


def test_without_a_lecture_nobody_can_leave_it() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            await tab.send(leave="lecture")
            assert "follow no lecture" in (await tab.message())["notice"]

    run(main)


def test_a_tab_of_who_left_and_came_back_does_nothing_for_the_newcomer() -> None:
    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as tab:
            await tab.until("@role", "follower")
            old = server.site.visitor(cookie.partition("=")[2], Role.READER)
            assert old is not None
            old.leave()
            async with server.tab(cookie) as again:
                await again.until("@role", "follower")
                # Read already when the tab was told to go.
                for wish in (LeaveLecture(), LeaveMachine(), Plain.NEXT):
                    assert not server.site.take(cookie.partition("=")[2], old, Asked(wish))
                assert await tab.closed_with() == 1001
                await again.send(leave="lecture")
                await again.until("@role", "reader")

    run(main, is_lecture=True)
