# SPDX-License-Identifier: MIT
"""The tables of docs/lifetime.md and of the stories beside it, put between their markers.

A generated part begins with ``<!-- generated: NAME -->`` and ends with ``<!-- end: NAME -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pyvmm.errors import UsageError
from pyvmm.lifetime.answer import Size, Sufficiency, size_of, sufficiency
from pyvmm.lifetime.assumptions import Assumption, assumptions
from pyvmm.lifetime.claims import judge_all
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Remedy, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.evidence import Evidence, Judgement, Verdict
from pyvmm.lifetime.explorer import Exploration
from pyvmm.lifetime.properties import ALL, OF_FEATURES, Property, Role
from pyvmm.lifetime.race_starts import PROTECTIONS
from pyvmm.lifetime.race_table import COMPARED, in_columns, older_kernels, purposes
from pyvmm.lifetime.races import Schedule
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.universe import (
    ERRORS,
    FAILURES,
    LINKED,
    MOVED,
    SMALL,
    TYPES,
    UPDATED,
    VCPUS,
    Feature,
    Universe,
)

STORIES = "lifetime-stories.md"
"""Document, beside the write-up, that has the stories."""
UNIVERSE_OF: Mapping[Feature, Universe] = {
    Feature.LINKS: LINKED,
    Feature.VCPUS: VCPUS,
    Feature.TYPES: TYPES,
    Feature.ERRORS: ERRORS,
    Feature.FAILURES: FAILURES,
    Feature.MOVES: MOVED,
    Feature.UPDATES: UPDATED,
    Feature.SUCCESSORS: MOVED,
}
"""A universe that has each feature."""


def generated(evidence: Evidence) -> dict[str, str]:
    """Every generated part of the write-up by name."""
    found = [evidence.explored(design) for design in STANDARD_DESIGNS]
    return {
        "properties": _properties(found),
        "answer": _answer(sufficiency(evidence)),
        "features": _features(evidence),
        "races": _races(evidence),
        "older": _in_columns(older_kernels()),
        "claims": _claims(judge_all(evidence)),
        "counts": _counts(evidence),
        "assumptions": _assumptions(assumptions(evidence)),
    }


def generated_stories(evidence: Evidence) -> dict[str, str]:
    """Every generated part of the document that has the stories and what verdicts rest on."""
    found = [evidence.explored(design) for design in STANDARD_DESIGNS]
    judgements = judge_all(evidence)
    return {
        "sizes": _sizes(found),
        "stories": _stories(found),
        "feature-stories": _feature_stories(evidence),
        "schedules": _schedules(evidence),
        "evidence": _evidence(judgements),
    }


def parts_of(document: str, evidence: Evidence) -> dict[str, str]:
    """The parts that belong into a document: it has places for stories, or is the write-up."""
    of_stories = "<!-- generated: stories -->" in document
    return generated_stories(evidence) if of_stories else generated(evidence)


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
    head = [
        "design", "software-protected memory", "memory that belongs to a virtual machine",
        "where files are linked", "where a VM takes another's virtual machine over",
        "where the kernel is replaced", "a reboot finds its memory",
    ]  # fmt: skip
    return _table(
        head,
        [
            [
                each.design.name,
                _lacks(each.software_protected),
                _lacks(each.owned),
                *(
                    _lacks(names, "lacks nothing more")
                    for names in (each.linked, each.moved, each.updated)
                ),
                f"{_steps(each.moves)} by taking over, {_steps(each.updates)} by a live update",
            ]
            for each in rows
        ],
    )


def _steps(count: int | None) -> str:
    return "never" if count is None else f"in {count} steps"


def _lacks(names: Sequence[str], nothing: str = "**sufficient**") -> str:
    return f"lacks {', '.join(names)}" if names else nothing


def _of_features(evidence: Evidence) -> list[tuple[Property, list[Exploration]]]:
    """Each property that only a feature can show, with the explorations of it."""
    strongest = memslot_pins_file(Remedy.OWNER_IN_INODE, judges_flags=True, names_first=True)
    designs = (file_pins_vm(), memslot_pins_file(), strongest)
    return [
        (each, [evidence.within(design, UNIVERSE_OF[each.needs]) for design in designs])
        for each in OF_FEATURES
        if each.needs is not None
    ]


def _features(evidence: Evidence) -> str:
    rows, number, head = [], 0, ["property"]
    for prop, found in _of_features(evidence):
        head[1:] = [_label(each.design.name) for each in found]
        cells = []
        for each in found:
            story = each.stories.get(prop.name)
            if story is None:
                cells.append("impossible" if prop.role is Role.POSSIBILITY else "holds")
                continue
            number += 1
            word = "possible" if prop.role is Role.POSSIBILITY else "**fails**"
            cells.append(f"{word}: [F{number}]({STORIES}#f{number}), {len(story.steps)} steps")
        rows.append([f"**{prop.name}**: {prop.sentence}", *cells])
    return _table(head, rows)


def _feature_stories(evidence: Evidence) -> str:
    told = [
        (prop, each.stories[prop.name])
        for prop, found in _of_features(evidence)
        for each in found
        if prop.name in each.stories
    ]
    parts = []
    for number, (prop, story) in enumerate(told, 1):
        where = f"{prop.name}, {story.design}, universe {story.universe.name}"
        parts += [f"### F{number}", "", f"{where}:", "", "```", *story.lines(), "```", ""]
    return "\n".join(parts)


def _races(evidence: Evidence) -> str:
    rows = [
        [f"`{each.name.lower().replace('_', '-')}`: {each.value}", *cells]
        for each, cells in purposes(evidence)
    ]
    lines = [_table(["without", *(each.value for each in COMPARED)], rows), ""]
    for locking in COMPARED:
        whole = evidence.raced(locking)
        harms = ", ".join(each.value for each in whole.harms) or "no harm"
        lines.append(
            f"- With all of them, {locking.value}: {whole.scenarios:,} scenarios of up to "
            f"{max(evidence.sizes)} operations, {whole.states:,} states, {whole.steps:,} steps: "
            f"**{harms}**."
        )
    return "\n".join(lines)


def _in_columns(schedule: Schedule) -> str:
    head, rows = in_columns(schedule)
    return _table(head, rows) + f"\n\n=> {schedule.harm.value}."


def _schedules(evidence: Evidence) -> str:
    """The shortest schedule of each protection that the two designs need, dropped."""
    parts = []
    for locking in (Locking.MAINLINE, Locking.PROPOSAL):
        for dropped in PROTECTIONS[locking]:
            harms = evidence.raced(locking, dropped).harms
            for schedule in sorted(harms.values(), key=lambda each: len(each.steps))[:1]:
                parts += [
                    f"### {locking.name.lower()}, without {dropped.value}", "",
                    "```", *schedule.lines(), "```", "",
                ]  # fmt: skip
    return "\n".join(parts)


def _counts(evidence: Evidence) -> str:
    pairs = [(file_pins_vm(), Locking.MAINLINE)]
    pairs += [(each, Locking.PROPOSAL) for each in STANDARD_DESIGNS if each.system_creation]
    names = Size.__dataclass_fields__
    rows = []
    for design, locking in pairs:
        size = size_of(evidence, design, locking)
        small = evidence.within(design, SMALL)
        cells = [f"{getattr(size, name):,}" for name in names]
        rows.append([design.name, *cells, f"{small.states:,}", f"{small.transitions:,}"])
    head = [name.replace("_", " ") for name in names]
    return _table(["design", *head, "states, smallest", "transitions, smallest"], rows)


def _cell(prop: Property, found: Exploration, stories: list[tuple[str, Story]]) -> str:
    if prop.name not in found.stories:
        return "impossible" if prop.role is Role.POSSIBILITY else "holds"
    number = _number(stories, found, prop.name)
    steps = len(found.stories[prop.name].steps)
    word = "possible" if prop.role is Role.POSSIBILITY else "**fails**"
    return f"{word}: [story {number}]({STORIES}#story-{number}), {steps} steps"


def _sizes(found: Sequence[Exploration]) -> str:
    rows = [
        [each.design.name, f"{each.states:,}", f"{each.transitions:,}", str(each.depth)]
        for each in found
    ]
    return _table(["design", "states", "transitions", "depth"], rows)


def _stories(found: Sequence[Exploration]) -> str:
    parts = []
    for number, (name, story) in enumerate(_numbered(found), 1):
        told = ["", f"{name}, {story.design}:", "", "```", *story.lines(), "```", ""]
        parts += [f"### Story {number}", *told]
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
