# SPDX-License-Identifier: MIT
"""Steps and what came of them as lines of text, at most `width` columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyvmm.demo.telling.acts import Look, act_words
from pyvmm.demo.telling.chapter import Question, Step
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.demo.telling.player import View
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.lifetime.properties import shortfall


def heading(view: View) -> str:
    """Chapter, step and host."""
    staged = view.moment.staged if view.moment is not None else view.staged
    where = f"{view.number}/{len(view.chapter.steps)} {view.chapter.title}"
    return f"{where} - on {host_words(staged)}" if staged is not None else where


def host_words(staged: Staged) -> str:
    """The host of a stage."""
    match staged.host:
        case StageHost.MODEL:
            return "the model"
        case StageHost.LAB:
            return f"the lab, Linux {staged.kernel}"
        case StageHost.KVM:
            return f"this machine's KVM, Linux {staged.kernel}"
        case StageHost.MACHINE:
            return "the model of lifetimes"


def not_real(staged: Staged, width: int) -> Iterator[Line]:
    """A stage that is not what one would expect says so, and why."""
    if staged.why:
        because = ", because" if staged.host is StageHost.MODEL else ":"
        said = f"on {host_words(staged)}{because} {staged.why}"
        yield from wrapped(said, width, Tone.FAINT, rest="  ")


def saying(step: Step, width: int) -> list[Line]:
    """A step before it is carried out: what is about to happen."""
    return wrapped(step.says, width)


def asking(question: Question, width: int) -> Iterator[Line]:
    """A question and its answers by number."""
    yield from wrapped(question.asks, width, Tone.ASKED)
    for number, choice in enumerate(question.choices, 1):
        yield from wrapped(f"{number}  {choice.words}", width, first="  ", rest="     ")


def answer(moment: Moment, width: int) -> Iterator[Line]:
    """The answer beside what was predicted, and the reason of a refusal."""
    outcome = moment.outcome
    if moment.was_tried:
        yield from wrapped(f"tried: {act_words(moment.act)}", width, rest="  ")
    if not isinstance(moment.act, Look):
        tone = Tone.REFUSED if outcome.errno else Tone.WORKED
        yield from wrapped(f"ANSWER: {_answered(outcome)}", width, tone, rest="  ")
    yield from _designs(outcome, width)
    yield from _explained(outcome, width)
    yield from _predicted(moment, width)
    yield from _digests(moment.before, outcome, width)
    if outcome.after.ended is not None and moment.before.ended is None:
        yield from wrapped(f"the guest has ended, with status {outcome.after.ended}", width)
    if not moment.was_tried and moment.step.after:
        yield from wrapped(moment.step.after, width)


def closing(view: View, width: int) -> Iterator[Line]:
    """The end of a chapter, and what to do next."""
    chapter = view.chapter
    yield from wrapped(f"End of the chapter. {chapter.aim}", width, Tone.HEAD)
    if chapter.exercise:
        yield from wrapped(
            f"Its exercise: pyvmm demo --exercise {chapter.exercise}", width, rest="  "
        )
    if view.following is not None:
        yield from wrapped(f"The next chapter: {view.following.title}", width, rest="  ")


def score(moments: Sequence[Moment], width: int) -> Iterator[Line]:
    """The number of predictions that came true, where there were any."""
    predicted = [one for one in moments if one.predicted is not None]
    if predicted:
        right = sum(one.predicted == one.came_true for one in predicted)
        yield from wrapped(f"Of your {len(predicted)} predictions {right} came true.", width)


def _answered(outcome: Outcome) -> str:
    if outcome.errno:
        return f"refused, {outcome.errno_name}"
    if outcome.seen:
        return ", ".join(one.words for one in outcome.seen)
    if not outcome.was_attempted:
        return "it was not attempted"
    return "it worked" if outcome.value is None else f"the byte is {outcome.value:#04x}"


def _designs(outcome: Outcome, width: int) -> Iterator[Line]:
    """Each design's own answer to an operation, and what it violates."""
    for one in outcome.answers:
        said = one.answer or "cannot be done in this design"
        yield from wrapped(f"{one.design}: {said}", width, first="  ", rest="    ")
        for short in map(shortfall, one.violated):
            tone = Tone.REFUSED if short.is_fault else Tone.PLAIN
            yield from wrapped(str(short), width, tone, first="    ", rest="      ")


def _explained(outcome: Outcome, width: int) -> Iterator[Line]:
    why = outcome.explained
    if why is not None:
        source = f" [{why.source}]" if why.source else ""
        said = f"because {why.cause}{source}" if why.rule else f"{why.cause}{source}"
        yield from wrapped(said, width, rest="  ")


def _predicted(moment: Moment, width: int) -> Iterator[Line]:
    question = moment.question
    if question is None or (moment.was_tried and moment.predicted is None):
        return
    true, predicted = moment.true_choice, moment.predicted_choice
    if true is None:
        yield from wrapped("none of the answers came true on this host", width, Tone.REFUSED)
        return
    tone = Tone.PLAIN
    if predicted is None:
        said = f"the answer: {true.words}"
    elif predicted == true:
        said, tone = f"as you predicted: {true.words}", Tone.WORKED
    else:
        said = f"you predicted: {predicted.words}; it was: {true.words}"
        tone = Tone.CHANGED
    end = "" if true.words.endswith((".", "!", "?")) else "."
    yield from wrapped(f"{said}{end} {true.because}".rstrip(), width, tone, rest="  ")


def _digests(before: Observed, outcome: Outcome, width: int) -> Iterator[Line]:
    after = outcome.after
    if (after.measured, after.reported) != (before.measured, before.reported):
        for who, digest in (("the monitor's", after.measured), ("the firmware's", after.reported)):
            if digest:
                yield from wrapped(f"{who} digest: {digest.hex()}", width, rest="  ")
        if after.measured and after.reported and after.measured != after.reported:
            yield from wrapped("the two digests DIFFER", width, Tone.REFUSED)
    if outcome.same_digest is not None:
        said = "the same as" if outcome.same_digest else "ANOTHER than"
        yield from wrapped(f"the digest is {said} the launch's before", width, Tone.CHANGED)
