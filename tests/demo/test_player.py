# SPDX-License-Identifier: MIT
"""A reader's place: what each move does, and that no sequence of moves and answers breaks it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.telling.acts import Act, Look, MakeVm
from pyvmm.demo.telling.chapter import (
    AllOf,
    Book,
    Bound,
    Chapter,
    Choice,
    Fact,
    Holds,
    Need,
    NoneOf,
    Question,
    ReadValue,
    RefusedWith,
    ReportAgrees,
    ResidentAt,
    Step,
    Unchanged,
    Worked,
    is_true,
)
from pyvmm.demo.telling.orders import (
    ActDone,
    DoAct,
    NotDone,
    OpenStage,
    Order,
    StageLost,
    StageOpened,
    Told,
    aside_for,
)
from pyvmm.demo.telling.outcomes import Observed, Outcome, Resident, Staged, StageHost
from pyvmm.demo.telling.player import (
    MOST_MOMENTS,
    Jump,
    LookAt,
    Move,
    Phase,
    Plain,
    Player,
    Predict,
    Try,
)
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange

STEPS = tuple(
    Step(
        f"s{number}",
        "It is done.",
        MakeVm(number),
        Question(
            "Will it work?",
            (Choice("yes", "it will", Worked()), Choice("no", "it will not", RefusedWith(22))),
        ),
    )
    for number in range(3)
)
BOOK = Book(
    (
        Chapter("one", "One", "One sees.", frozenset(), STEPS),
        Chapter("two", "Two", "Two sees.", frozenset(), STEPS[:1]),
    )
)
HERE = Staged(StageHost.MODEL)


def outcome(number: int = 0, held: tuple[str, ...] = (), value: int | None = None) -> Outcome:
    return Outcome((), (), number, value, None, Observed(held), 0.0)


class Reader:
    """A player whose orders are carried out at once; each act makes one more VM."""

    def __init__(self, start: str = "one") -> None:
        self.player = Player(BOOK, start)
        self.done: list[Act] = []
        self.opened: list[OpenStage] = []
        self.fails = 0
        self.obey(self.player.begin())

    def obey(self, orders: tuple[Order, ...]) -> None:
        for order in orders:
            told: Told
            if isinstance(order, OpenStage):
                self.opened.append(order)
                self.done = [one.act for one in order.replay]
                told = StageOpened(HERE, Observed(self.held()), order.ticket)
            else:
                self.done.append(order.act)
                told = ActDone(outcome(self.fails, self.held()), order.ticket)
            self.obey(self.player.told(told))

    def held(self) -> tuple[str, ...]:
        return tuple(f"vm {number}" for number in range(len(self.done)))

    def move(self, *moves: Move) -> None:
        for move in moves:
            self.obey(self.player.move(move))

    @property
    def place(self) -> tuple[str, Phase]:
        return self.player.view.step.id, self.player.view.phase


def test_a_chapter_from_its_beginning_to_its_end() -> None:
    reader = Reader()
    assert reader.place == ("s0", Phase.ASKING)
    reader.move(Plain.NEXT)
    assert reader.place == ("s0", Phase.SHOWING)
    reader.move(Plain.NEXT, Predict("yes"))
    view = reader.player.view
    assert view.moment is not None
    assert (view.number, view.moment.predicted, view.moment.came_true) == (2, "yes", "yes")
    assert not view.is_last
    reader.fails = errno.EPERM
    reader.move(Plain.NEXT, Predict("no"))
    view = reader.player.view
    assert view.moment is not None
    assert (view.moment.predicted, view.moment.came_true) == ("no", None)
    assert view.is_last
    reader.move(Plain.NEXT)
    assert reader.place == ("s2", Phase.ENDED)
    assert reader.done == [MakeVm(0), MakeVm(1), MakeVm(2)]
    assert len(reader.opened) == 1


def test_whoever_tries_without_end_keeps_so_many_moments_and_can_go_on() -> None:
    reader = Reader()
    reader.move(*(Try(MakeVm(7)),) * (MOST_MOMENTS + 5))
    assert len(reader.player.moments) == len(reader.done) == MOST_MOMENTS
    assert "restart the chapter" in reader.player.view.notice
    reader.move(Plain.NEXT, Plain.NEXT)
    assert reader.place == ("s0", Phase.SHOWING)
    reader.move(LookAt(0), Try(MakeVm(8)))
    assert reader.done == [MakeVm(7), MakeVm(8)]


def test_behind_a_chapters_end_comes_the_next_chapter() -> None:
    reader = Reader()
    reader.move(*[Plain.NEXT] * 6)
    assert reader.player.view.following is BOOK.chapters[1]
    assert reader.place == ("s2", Phase.ENDED)
    reader.move(Plain.NEXT)
    assert (reader.player.view.link, len(reader.opened)) == ("two/s0", 2)
    reader.move(*[Plain.NEXT] * 3)
    assert reader.player.view.following is None
    assert reader.place == ("s0", Phase.ENDED)


def test_back_and_forth_touch_no_stage() -> None:
    reader = Reader()
    reader.move(*(Plain.NEXT,) * 5)
    assert reader.place == ("s2", Phase.SHOWING)
    before = list(reader.done)
    reader.move(Plain.BACK)
    assert reader.place == ("s1", Phase.SHOWING)
    reader.move(Plain.BACK)
    assert reader.place == ("s0", Phase.SHOWING)
    reader.move(Plain.BACK)
    assert reader.player.view.notice == "this is the beginning of the chapter"
    reader.move(Predict("yes"))
    assert "already" in reader.player.view.notice
    reader.move(Plain.NEXT)
    assert reader.place == ("s1", Phase.SHOWING)
    reader.move(Plain.NEXT)
    assert reader.place == ("s2", Phase.SHOWING)
    assert reader.done == before
    assert len(reader.opened) == 1


def test_any_kept_moment_can_be_looked_at_and_no_stage_is_touched() -> None:
    reader = Reader()
    reader.move(*(Plain.NEXT,) * 5)
    before = list(reader.done)
    for number, name in ((0, "s0"), (1, "s1"), (2, "s2")):
        reader.move(LookAt(number))
        view = reader.player.view
        assert (view.step.id, view.moment) == (name, view.moments[number])
    # The newest one is where one is: to go on is to go on with the chapter.
    reader.move(Plain.NEXT)
    assert reader.place == ("s2", Phase.ENDED)
    for number in (-1, 3):
        reader.move(LookAt(number))
        assert "no such moment" in reader.player.view.notice
    assert reader.done == before
    reader.move(LookAt(1), Plain.NEXT)
    assert reader.place == ("s2", Phase.ENDED)


def test_back_while_asking_shows_the_moment_before() -> None:
    reader = Reader()
    reader.move(Plain.NEXT, Plain.NEXT)
    assert reader.place == ("s1", Phase.ASKING)
    reader.move(Plain.BACK)
    assert reader.place == ("s0", Phase.SHOWING)
    reader.move(Plain.NEXT)
    assert reader.place == ("s1", Phase.ASKING)


def test_to_act_from_an_earlier_moment_is_a_new_stage_with_all_acts_up_to_there() -> None:
    reader = Reader()
    reader.move(*(Plain.NEXT,) * 5)
    reader.move(Plain.BACK, Plain.BACK, Try(Look()))
    assert "carried out again" in reader.player.view.notice
    assert [one.act for one in reader.opened[-1].replay] == [MakeVm(0)]
    assert reader.done == [MakeVm(0), Look()]
    moments = reader.player.moments
    assert [one.was_tried for one in moments] == [False, True]
    assert reader.place == ("s0", Phase.SHOWING)
    # The step that was gone back to has been carried out: it goes on with the one behind it.
    reader.move(Plain.NEXT)
    assert reader.place == ("s1", Phase.ASKING)


def test_a_try_before_the_step_leaves_the_step_to_be_done() -> None:
    reader = Reader()
    reader.move(Try(Look()))
    assert reader.place == ("s0", Phase.SHOWING)
    assert reader.player.view.moment is not None
    assert reader.player.view.moment.was_tried
    reader.move(Plain.NEXT)
    assert reader.place == ("s0", Phase.ASKING)
    reader.move(Predict("yes"), Try(Look()), Plain.NEXT)
    assert reader.place == ("s1", Phase.ASKING)


def test_jump_and_restart() -> None:
    reader = Reader("two")
    reader.move(Plain.NEXT, Jump("nowhere"))
    assert "there is no chapter" in reader.player.view.notice
    assert reader.place == ("s0", Phase.SHOWING)
    reader.move(Jump("one"))
    assert reader.player.view.chapter.id == "one"
    assert reader.place == ("s0", Phase.ASKING)
    reader.move(Plain.NEXT, Plain.RESTART)
    assert reader.player.moments == ()
    assert reader.done == []
    assert [one.ticket for one in reader.opened] == [1, 2, 3]


def test_a_lost_stage_takes_moves_again_after_a_restart() -> None:
    player = Player(BOOK, "one")
    (order,) = player.begin()
    player.told(StageOpened(HERE, Observed(), order.ticket))
    assert player.move(Plain.NEXT) == (DoAct(MakeVm(0), order.ticket),)
    assert player.move(Plain.NEXT) == ()
    assert player.view.notice == "wait until it is done"
    player.told(StageLost("the lab was lost", order.ticket))
    assert (player.view.phase, player.view.notice) == (Phase.LOST, "the lab was lost")
    assert player.move(Plain.NEXT) == ()
    assert "restart" in player.view.notice
    (again,) = player.move(Plain.RESTART)
    assert isinstance(again, OpenStage)
    # What is still told of the first is not taken.
    player.told(ActDone(outcome(), order.ticket))
    player.told(StageLost("late", order.ticket))
    assert player.view.phase is Phase.OPENING


def test_an_act_that_cannot_be_asked_for_changes_nothing() -> None:
    player = Player(BOOK, "one")
    (order,) = player.begin()
    player.told(StageOpened(HERE, Observed(), order.ticket))
    player.move(Try(Look()))
    player.told(NotDone("there is no such thing", order.ticket))
    assert (player.view.phase, player.view.notice) == (Phase.ASKING, "there is no such thing")
    assert player.moments == ()


@pytest.mark.parametrize(
    ("fact", "true"),
    [
        (Worked(), False),
        (RefusedWith(17), True),
        (RefusedWith(22), False),
        (ReadValue(5), True),
        (ReadValue(6), False),
        (Unchanged(), False),
        (Holds("vm", 2), True),
        (Holds("file", 1), False),
        (Bound(0, 2), True),
        (Bound(1, 1), False),
        (ResidentAt(Side.SHARED, 0x1FFF, resident=True), True),
        (ResidentAt(Side.SHARED, 0x2000, resident=True), False),
        (ResidentAt(Side.PRIVATE, 0x1000, resident=False), True),
        (ReportAgrees(agrees=False), True),
        (ReportAgrees(agrees=True), False),
        (AllOf((RefusedWith(17), ReadValue(5))), True),
        (AllOf((RefusedWith(17), ReadValue(6))), False),
        (NoneOf((Worked(), ReadValue(6))), True),
        (NoneOf((Worked(), ReadValue(5))), False),
    ],
)
def test_facts(fact: Fact, true: bool) -> None:
    told = outcome(17, ("vm 0", "vm 1", "mapping 0"), 5)
    told = replace(
        told,
        after=replace(
            told.after,
            bound=((0, 0, 0), (0, 0, 1)),
            resident=(Resident(0, Side.SHARED, GpaRange(0x1000, 0x2000)),),
            measured=b"1",
            reported=b"2",
        ),
    )
    assert is_true(fact, told, Observed()) is true
    assert is_true(Unchanged(), told, told.after)


moves: st.SearchStrategy[Move] = st.one_of(
    st.sampled_from(Plain),
    st.builds(Jump, st.sampled_from(["one", "two", "three"])),
    st.builds(Predict, st.sampled_from(["yes", "no", "?"])),
    st.just(Try(Look())),
    st.builds(LookAt, st.integers(-1, 5)),
)


@given(st.lists(st.tuples(moves, st.booleans()), max_size=40))
def test_any_moves_leave_a_place_that_can_be_shown(made: list[tuple[Move, bool]]) -> None:
    reader = Reader()
    for move, fails in made:
        reader.fails = errno.EINVAL if fails else 0
        reader.move(move)
        view = reader.player.view
        assert view.phase not in {Phase.OPENING, Phase.DOING, Phase.LOST}
        assert (view.phase is Phase.ASKING) <= (view.moment is None)
        assert view.step in view.chapter.steps
        assert len(reader.done) >= len(reader.player.moments)


def test_a_step_to_begin_at_has_all_before_it_carried_out() -> None:
    player = Player(BOOK, "one", "s2")
    (order,) = player.begin()
    assert isinstance(order, OpenStage)
    assert [one.act for one in order.replay] == [MakeVm(0), MakeVm(1)]
    player.told(StageOpened(HERE, Observed(), order.ticket))
    assert (player.view.link, player.view.phase) == ("one/s2", Phase.ASKING)
    assert player.moments == ()
    (again,) = player.move(Plain.RESTART)
    assert isinstance(again, OpenStage)
    assert (player.view.link, again.replay) == ("one/s0", ())


def test_a_jump_to_a_step() -> None:
    reader = Reader("two")
    reader.move(Jump("one", "s1"))
    assert reader.place == ("s1", Phase.ASKING)
    assert reader.done == [MakeVm(0)]
    reader.move(Jump("one", "s9"))
    assert reader.player.view.notice == "there is no step 's9' in one"
    assert reader.place == ("s1", Phase.ASKING)


def test_what_is_tried_is_predicted_too() -> None:
    reader = Reader()
    reader.move(Try(MakeVm(5), "nonsense"))
    assert "no answer" in reader.player.view.notice
    assert reader.done == []
    reader.move(Try(MakeVm(5), "refused"))
    # Even what does the same as the step is no step.
    reader.fails = errno.EPERM
    reader.move(Try(STEPS[0].act, "refused"), Try(Look()))
    told = [(one.was_tried, one.predicted, one.came_true) for one in reader.player.moments]
    assert told == [
        (True, "refused", "worked"),
        (True, "refused", "refused"),
        (True, None, "refused"),
    ]
    question = reader.player.moments[0].question
    assert question is not None
    assert question.asks == "The answer is:"
    reader.move(Plain.NEXT, Predict("yes"))
    assert reader.player.moments[-1].question is STEPS[0].question


def test_an_aside_is_compared_with_the_one_before_it_and_carried_out_again_as_one() -> None:
    private = frozenset({Need.PRIVATE})
    answers = Question("Changes anything?", (Choice("no", "nothing", Unchanged()),))
    steps = (
        Step("here", "Here.", MakeVm(0)),
        Step("aside", "Aside.", MakeVm(1), answers, needs=private),
        Step("again", "Again.", MakeVm(2), answers, needs=private),
    )
    player = Player(Book((Chapter("c", "C", "Aim.", frozenset(), steps),)), "c")
    (opens,) = player.begin()
    before = Observed(("vm 7",))
    player.told(StageOpened(HERE, Observed(), opens.ticket, private, before))
    other = aside_for(private)
    assert player.view.staged == HERE
    for held, aside in ((("vm 0",), None), (("vm 1",), other), (("vm 1",), other)):
        (does,) = player.move(Plain.NEXT)
        assert isinstance(does, DoAct)
        assert does.needs == (frozenset() if aside is None else private)
        # Said before it is done, with what is there: who predicts has to know who will answer.
        assert player.view.staged == (aside or HERE)
        assert player.view.observed == (Observed() if aside is None else before)
        player.told(ActDone(outcome(0, held), does.ticket, aside))
        before = before if aside is None else Observed(held)
        player.move(Plain.NEXT)
    first, second, third = player.moments
    assert (second.came_true, third.came_true) == (None, "no")
    assert (third.before, third.staged) == (second.outcome.after, other)
    assert first.staged == HERE
    assert second.before == Observed(("vm 7",))
    player.move(LookAt(1))
    (opened,) = player.move(Try(Look()))
    assert isinstance(opened, OpenStage)
    assert [one.needs for one in opened.replay] == [frozenset(), private]
    assert {one.ticket for one in opened.replay} == {opened.ticket}
    (tried,) = player.told(StageOpened(HERE, Observed(), opened.ticket))
    assert isinstance(tried, DoAct)
    assert tried.needs == private
