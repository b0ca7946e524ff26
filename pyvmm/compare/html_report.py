# SPDX-License-Identifier: MIT
"""A report as one page: tables, and pictures drawn in SVG. It loads nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from pyvmm.compare import pictures
from pyvmm.compare.observations import (
    KERNEL_COUNTERS,
    METRIC_NOTES,
    METRIC_TITLES,
    Counts,
    Metric,
)
from pyvmm.compare.report import Report, SubjectReport
from pyvmm.compare.statistics import counted
from pyvmm.compare.verdict import Agreement, Finding, PairVerdict
from pyvmm.visible import visible

_CONSOLE_SHOWN = 64 << 10
_WORD = 16
"""Letters of a word that stay together."""
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #6a6a6a; --line: #ccc;
  --ours: #2a6fb0; --theirs: #b0622a; --good: #237a31; --known: #8a6700; --bad: #c02020; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --faint: #999;
  --line: #444; --ours: #6aaeea; --theirs: #e69a5e; --good: #60c070; --known: #d8b040;
  --bad: #ff7070; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line);
  padding-left: 0.8rem; }
.equal { color: var(--good); } .explained { color: var(--known); } .differs { color: var(--bad);
  font-weight: bold; } .unknown, .faint { color: var(--faint); }
svg { display: block; max-width: 100%; height: auto; margin: 0.3rem 0 1rem; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .faint { fill: var(--faint); }
svg .ours { fill: var(--ours); } svg .theirs { fill: var(--theirs); }
svg .axis { stroke: var(--line); } svg .box { opacity: 0.35; } svg .good { fill: var(--good); }
svg .known { fill: var(--known); } svg .median { stroke: var(--ink); stroke-width: 2; }
@media (max-width: 60rem) {
  thead { display: none; } table, tbody, tr, th, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: 0.3rem 0; }
  th, td, td.n { border: 0; padding: 0.1rem 0; text-align: left; }
  td { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: 0 0.8rem; }
  td::before { content: attr(data-label); color: var(--faint); }
  svg text { font-size: 15px; } svg { width: 100%; }
}
@media (max-width: 34rem) { svg text { font-size: 18px; } }
"""


def to_html(report: Report) -> str:
    """The whole page. Everything that came from a guest or a host is escaped."""
    guest = report.guest
    title = f"{_words(guest.name)}: pyvmm and QEMU"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(guest.name)}: pyvmm and QEMU</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *_facts(report),
        *_behaviour(report),
        *_costs(report),
        *_exits(report),
        *_details(report),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _facts(report: Report) -> Iterator[str]:
    guest = report.guest
    verdict = ("equal", "The behaviour agrees.")
    if not report.agrees:
        verdict = ("differs", "The behaviour does not agree.")
    yield f'<p class="{verdict[0]}">{verdict[1]}</p>'
    yield (
        f"<p>{guest.memory >> 20} MiB, {counted(guest.cpus, 'CPU')}, command line "
        f"<code>{_words(guest.command_line) or '(empty)'}</code>, image SHA-256 "
        f"<code>{_words(guest.sha256)}</code>; {counted(report.rounds, 'timed run')} of "
        f"each, alternating; on {_words(report.host)}.</p>"
    )
    for one in report.absent:
        yield f"<p>Left out: {_words(one.name)}: {_words(one.why)}</p>"


# -- behaviour --


def _behaviour(report: Report) -> Iterator[str]:
    reference = report.subjects[0]
    yield "<h2>Behaviour</h2>"
    yield f"<p>Each against {_words(reference.subject.name)}.</p>"
    rows = []
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        findings = (*verdict.findings, one.steadiness)
        rows.append((_words(one.subject.name), *map(_mark, findings)))
    if not report.verdicts:
        return
    if reference.inventory.memory or reference.inventory.cpuid:
        yield (
            "<p>Lines in which the guest prints its memory map and CPUID are counted there, not "
            "as the console's.</p>"
        )
    aspects = [one.aspect.value for one in report.verdicts[0].findings]
    yield _table(("", *aspects, "steadiness"), rows)
    yield f"<p>{_words(reference.subject.name)} itself, from run to run: "
    steadiness = reference.steadiness
    kind = steadiness.agreement.value
    yield f'<span class="{kind}">{kind}</span> ({_words(steadiness.summary)}).</p>'


def _mark(finding: Finding) -> str:
    kind = finding.agreement.value
    return f'<div><span class="{kind}">{kind}</span><br>{_words(finding.summary)}</div>'


def _details(report: Report) -> Iterator[str]:
    yield "<h2>Differences</h2>"
    told = False
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        findings = [*verdict.findings, one.steadiness]
        for finding in findings:
            if finding.agreement in {Agreement.EXPLAINED, Agreement.DIFFERS}:
                told = True
                yield from _detail(one.subject.name, finding)
        yield from _ram_picture(verdict)
    if not told:
        yield "<p>There are none.</p>"
    yield "<h2>Console</h2>"
    said = report.subjects[0].inspection.console
    cut = f", the first {_CONSOLE_SHOWN >> 10} KiB of it" if len(said) > _CONSOLE_SHOWN else ""
    text = said[:_CONSOLE_SHOWN].decode("utf-8", "backslashreplace")
    yield f"<p>Of {_words(report.subjects[0].subject.name)}{cut}:</p><pre>{_shown(text)}</pre>"


def _words(text: str) -> str:
    """Text as HTML; a word that is too long for a line (a digest, a path) may be broken."""
    return "".join(
        piece if piece.isspace() else "<wbr>".join(map(escape, _pieces(piece)))
        for piece in re.split(r"(\s+)", text)
    )


def _pieces(word: str) -> Iterator[str]:
    for start in range(0, len(word), _WORD):
        yield word[start : start + _WORD]


def _shown(text: str) -> str:
    """Text of a guest: a page has no place for its control characters."""
    return escape(visible(text, keep="\n\t"))


def _detail(name: str, finding: Finding) -> Iterator[str]:
    kind = finding.agreement.value
    yield f"<h3>{_words(name)}: {finding.aspect.value}</h3>"
    yield f'<p><span class="{kind}">{kind}</span>: {_words(finding.summary)}</p>'
    for key, reason in finding.reasons:
        yield f"<p><b>{_words(key)}</b>: {_words(reason)}.</p>"
    if finding.detail:
        yield f"<details open><summary>In detail</summary><pre>{_shown(_joined(finding.detail))}"
        yield "</pre></details>"


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _ram_picture(verdict: PairVerdict) -> Iterator[str]:
    if verdict.ram is not None and any(one.pages.differing for one in verdict.ram):
        yield pictures.ram(verdict.ram)


# -- costs --


def _costs(report: Report) -> Iterator[str]:
    timed = [one for one in report.subjects if one.figures]
    if not timed:
        return
    yield "<h2>Cost</h2>"
    yield (
        "<p>A dot is one run, the box the middle half of them, the line the median, "
        "whose figure stands to the right of all dots. "
        "Whole processes, from their start to their end.</p>"
    )
    for metric in Metric:
        having = [one for one in timed if metric in one.figures]
        if having:
            title, unit = METRIC_TITLES[metric]
            yield f"<h3>{title[0].upper()}{title[1:]}, {unit}</h3>"
            yield pictures.runs(metric, having)
            yield _figures(metric, having)
            if metric in METRIC_NOTES:
                yield f"<p>{escape(_sentence(METRIC_NOTES[metric]))}.</p>"
    if report.ratios:
        yield "<h3>pyvmm by QEMU, round by round</h3>"
        yield pictures.ratios(report.ratios)


def _sentence(text: str) -> str:
    """With a capital letter at the beginning."""
    return text[:1].upper() + text[1:]


def _figures(metric: Metric, having: Sequence[SubjectReport]) -> str:
    rows = []
    for one in having:
        spread = one.figures[metric]
        numbers = (spread.median, spread.low, spread.high, spread.least, spread.most)
        rows.append((_words(one.subject.name), *(f"{value:.2f}" for value in numbers)))
    columns = ("", "median", "lower quartile", "upper quartile", "least", "most")
    return _table(columns, rows, numeric=True)


# -- exits --


def _exits(report: Report) -> Iterator[str]:
    yield "<h2>Exits</h2>"
    kernel = [(one.subject.name, one.inspection.kernel) for one in report.subjects]
    own = [(one.subject.name, one.inspection.exits) for one in report.subjects]
    kinds = sorted({kind for _, counts in own if counts for kind in counts.counts})
    for title, names, columns in (
        ("What KVM counted", KERNEL_COUNTERS, kernel),
        ("By kind, as the monitor sees them", kinds, own),
    ):
        known = [(name, counts) for name, counts in columns if counts is not None]
        if known:
            yield f"<h3>{title}</h3>"
            yield _count_table(names, known)
    for one in report.subjects:
        seen = one.inspection
        for counts, why in ((seen.kernel, seen.kernel_unknown), (seen.exits, seen.exits_unknown)):
            if counts is None:
                yield f'<p class="faint">{_words(one.subject.name)}: unknown: {_words(why)}</p>'


def _count_table(kinds: Sequence[str], columns: Sequence[tuple[str, Counts]]) -> str:
    rows = []
    for kind in kinds:
        values = [counts.counts.get(kind, 0) for _, counts in columns]
        if any(values):
            rows.append((_words(kind), *map(str, values)))
    return _table(("", *(name for name, _ in columns)), rows, numeric=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = False) -> str:
    """A table of cells that are HTML already; `columns` are text.

    Where there is no room for it, each cell is a line of its own with its column's name.
    """
    head = "".join(f"<th>{_words(one)}</th>" for one in columns)
    kind = ' class="n"' if numeric else ""
    lines = []
    for first, *rest in rows:
        cells = "".join(
            f'<td{kind} data-label="{escape(column)}">{cell}</td>'
            for column, cell in zip(columns[1:], rest, strict=True)
        )
        lines.append(f"<tr><th>{first}</th>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
