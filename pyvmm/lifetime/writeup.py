# SPDX-License-Identifier: MIT
"""The tables of docs/lifetime.md, made from explorations, and put between the document's markers.

A generated part begins with ``<!-- generated: NAME -->`` and ends with ``<!-- end: NAME -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pyvmm.errors import UsageError
from pyvmm.lifetime.answer import Sufficiency, sufficiency
from pyvmm.lifetime.assumptions import Assumption, assumptions
from pyvmm.lifetime.claims import judge_all
from pyvmm.lifetime.designs import STANDARD_DESIGNS
from pyvmm.lifetime.evidence import Evidence, Judgement, Verdict
from pyvmm.lifetime.explorer import Exploration
from pyvmm.lifetime.properties import ALL, Property, Role
from pyvmm.lifetime.races import Schedule
from pyvmm.lifetime.story import Story


def generated(evidence: Evidence) -> dict[str, str]:
    """Every generated part by name."""
    found = [evidence.explored(design) for design in STANDARD_DESIGNS]
    judgements = judge_all(evidence)
    return {
        "properties": _properties(found),
        "answer": _answer(sufficiency(evidence)),
        "sizes": _sizes(found),
        "stories": _stories(found),
        "claims": _claims(judgements),
        "evidence": _evidence(judgements),
        "assumptions": _assumptions(assumptions(evidence)),
    }


def put(document: str, parts: Mapping[str, str]) -> str:
    """The document with its generated parts replaced.

    Raises `UsageError` where a part has no place in it, or a place no part.
    """
    for name, text in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if document.count(begin) != 1 or document.count(end) != 1:
            raise UsageError(f"put the part {name!r}", f"there are not just one {begin} and {end}")
        before, rest = document.split(begin)
        after = rest.split(end)[1]
        document = f"{before}{begin}\n{text.rstrip()}\n{end}{after}"
    unknown = set(re.findall(r"<!-- generated: (\S+) -->", document)) - set(parts)
    if unknown:
        raise UsageError("fill the document in", f"nothing generates {sorted(unknown)}")
    return document


def _label(design: str) -> str:
    """A column's head, broken where it may be."""
    return design.replace(" + ", "<br>+ ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _number(stories: list[tuple[str, Story]], found: Exploration, name: str) -> int:
    key = (name, tuple(found.stories[name].lines()))
    known = [(property_name, tuple(story.lines())) for property_name, story in stories]
    if key not in known:
        stories.append((name, found.stories[name]))
        return len(stories)
    return known.index(key) + 1


def _numbered(found: Sequence[Exploration]) -> list[tuple[str, Story]]:
    """Each different story once, in the order in which the table comes to it."""
    stories: list[tuple[str, Story]] = []
    for prop in ALL:
        for each in found:
            if prop.name in each.stories:
                _number(stories, each, prop.name)
    return stories


def _properties(found: Sequence[Exploration]) -> str:
    stories = _numbered(found)
    rows = [
        [
            f"**{prop.name}**: {prop.sentence}",
            *(_cell(prop, each, stories) for each in found),
        ]
        for prop in ALL
    ]
    return _table(["property", *(_label(each.design.name) for each in found)], rows)


def _answer(rows: Sequence[Sufficiency]) -> str:
    head = ["design", "software-protected memory", "memory that belongs to a virtual machine"]
    return _table(
        [*head, "where files are linked"],
        [
            [
                each.design.name,
                _lacks(each.software_protected),
                _lacks(each.owned),
                f"lacks {', '.join(each.linked)}" if each.linked else "nothing more is lacking",
            ]
            for each in rows
        ],
    )


def _lacks(names: Sequence[str]) -> str:
    return f"lacks {', '.join(names)}" if names else "**sufficient**"


def _cell(prop: Property, found: Exploration, stories: list[tuple[str, Story]]) -> str:
    if prop.name not in found.stories:
        return "impossible" if prop.role is Role.POSSIBILITY else "holds"
    number = _number(stories, found, prop.name)
    steps = len(found.stories[prop.name].steps)
    word = "possible" if prop.role is Role.POSSIBILITY else "**fails**"
    return f"{word}: story {number}, {steps} steps"


def _sizes(found: Sequence[Exploration]) -> str:
    rows = [
        [each.design.name, f"{each.states:,}", f"{each.transitions:,}", str(each.depth)]
        for each in found
    ]
    return _table(["design", "states", "transitions", "depth"], rows)


def _stories(found: Sequence[Exploration]) -> str:
    parts = []
    for number, (name, story) in enumerate(_numbered(found), 1):
        parts += [f"Story {number}, {name}, {story.design}:", "", "```", *story.lines(), "```", ""]
    return "\n".join(parts)


def _claims(judgements: Sequence[Judgement]) -> str:
    rows = [
        [each.name, f'"{each.quote}"', f"**{each.verdict.value}** {each.condition}".rstrip()]
        for each in judgements
    ]
    count = {verdict: sum(each.verdict is verdict for each in judgements) for verdict in Verdict}
    words = ", ".join(f"{times} {verdict.value}" for verdict, times in count.items())
    return _table(["claim", "in the mail's words", "verdict"], rows) + f"\n\nOf these: {words}."


def _evidence(judgements: Sequence[Judgement]) -> str:
    lines: list[str] = []
    for each in judgements:
        lines += [f"**{each.name}**", ""]
        lines += [f"- {reason}" for reason in each.because]
        lines += [f"- shortest schedule of: {_short(one)}" for one in each.schedules]
        lines.append("")
    return "\n".join(lines)


def _short(schedule: Schedule) -> str:
    return f"{schedule.harm.value} ({schedule.scenario}; {len(schedule.steps)} steps)"


def _assumptions(taken: Sequence[Assumption]) -> str:
    lines: list[str] = []
    for each in taken:
        lines += [
            f"**{each.name}**: {each.sentence}",
            "",
            f"- because {each.reason} ({each.source});",
            f"- fails: {each.fails};",
            f"- {each.shown or 'not shown by a run'}.",
            "",
        ]
    return "\n".join(lines)
