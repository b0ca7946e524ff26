# SPDX-License-Identifier: MIT
"""A matrix's results as one page: the same table, and each boot in detail. It loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from pyvmm.testing.matrix.results import EXPLANATION, BootResult, Verdict, ending_text
from pyvmm.testing.matrix.summary import Row, Summary
from pyvmm.visible import visible

_CONSOLE_SHOWN = 16 << 10
_WITH_CONSOLE = 500
"""Boots that passed and have their console on the page: of a larger matrix none has."""
_CLASSES = {
    Verdict.PASSED: "good",
    Verdict.FAILED_AS_EXPECTED: "known",
    Verdict.FAILED_AS_IT_MAY: "known",
    Verdict.SKIPPED: "faint",
}
_WORD = 16
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #6a6a6a; --line: #ccc;
  --good: #237a31; --known: #8a6700; --bad: #c02020; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; --faint: #999;
  --line: #444; --good: #60c070; --known: #d8b040; --bad: #ff7070; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td a { text-decoration: none; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line);
  padding-left: 0.8rem; max-height: 30rem; overflow-y: auto; }
details { margin: 0.3rem 0; } dl { display: grid; grid-template-columns: 5rem minmax(0, 1fr);
  gap: 0.1rem 0.9rem; margin: 0.3rem 0 0.3rem 1rem; } dt { color: var(--faint); } dd { margin: 0; }
.good, .good a { color: var(--good); } .known, .known a { color: var(--known); }
.bad, .bad a { color: var(--bad); font-weight: bold; } .faint, .faint a { color: var(--faint); }
@media (max-width: 40rem) {
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: 0.3rem 0; }
  td, td.n { border: 0; padding: 0.1rem 0; text-align: left; }
  td { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: 0 0.8rem; }
  td::before { content: attr(data-label); color: var(--faint); font-weight: normal; }
}
"""


def to_html(summary: Summary) -> str:
    """The whole page. Everything that came from a guest or a file is escaped."""
    kind = "good" if summary.is_as_expected else "bad"
    title = f"Boot matrix {visible(summary.name)}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{_words(title)}</h1>",
            f'<p class="{kind}">{_words(summary.sentence)}.</p>',
            *_table(summary),
            *_details(summary),
            "</body></html>\n",
        ]
    )


def _table(summary: Summary) -> Iterator[str]:
    names = ("image", "memory", "CPUs", *(host.value for host in summary.hosts))
    heads = "".join(f"<th>{name}</th>" for name in names)
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for row in summary.rows:
        yield _row(row, names)
    yield "</tbody></table>"


def _row(row: Row, names: tuple[str, ...]) -> str:
    first = zip(names, (_words(row.image), row.memory, str(row.cpus)), ("", "n", "n"), strict=False)
    cells = [_cell(name, kind, content) for name, content, kind in first]
    for name, one in zip(names[3:], row.cells, strict=True):
        if one is None:
            cells.append(_cell(name, "faint", "-"))
            continue
        seconds = f" {one.seconds:.2f}&nbsp;s" if one.verdict.is_run else ""
        word = one.verdict.value
        if one.verdict is not Verdict.NOT_RUN:
            word = f'<a href="#{_anchor(one)}">{word}</a>'
        cells.append(_cell(name, _class(one), word + seconds))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(name: str, kind: str, content: str) -> str:
    return f'<td class="{kind}" data-label="{name}"><span>{content}</span></td>'


def _details(summary: Summary) -> Iterator[str]:
    told = [one for one in summary.told() if one.verdict is not Verdict.NOT_RUN]
    passed = [one for one in summary.results if one.verdict is Verdict.PASSED]
    for title, ones in (
        ("Not as expected", [one for one in told if not one.verdict.is_as_expected]),
        ("As expected, and not passed", [one for one in told if one.verdict.is_as_expected]),
        ("Passed", passed),
    ):
        if ones:
            yield f"<h2>{title}</h2>"
            with_console = ones is not passed or len(passed) <= _WITH_CONSOLE
            for one in ones:
                yield _detail(one, with_console=with_console)


def _detail(one: BootResult, *, with_console: bool) -> str:
    facts = [
        ("why", _words(visible(one.reason))),
        ("end", "" if one.outcome is None else _words(ending_text(one.outcome))),
        ("on", _words(visible(one.place))),
        ("attempts", str(one.attempts) if one.attempts > 1 else ""),
        ("by hand", f"<code>{_words(visible(one.by_hand))}</code>" if one.by_hand else ""),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts if fact)
    is_open = "" if one.verdict.is_as_expected else " open"
    return (
        f'<details id="{_anchor(one)}"{is_open}><summary>{_words(one.key)}: '
        f'<span class="{_class(one)}">{one.verdict.value}</span></summary>'
        f"<dl>{listed}</dl>{_console(one) if with_console else ''}{_explanation(one)}</details>"
    )


def _explanation(one: BootResult) -> str:
    return "".join(
        f"<details><summary>explanation</summary><pre>{_shown(artifact.content)}</pre></details>"
        for artifact in one.artifacts
        if artifact.name == EXPLANATION
    )


def _console(one: BootResult) -> str:
    if not one.console:
        return ""
    shown = one.console[-_CONSOLE_SHOWN:]
    cut = len(one.console) - len(shown)
    before = f"<p>The console, without its first {cut} bytes:</p>" if cut else ""
    return f"{before}<pre>{_shown(shown)}</pre>"


def _shown(content: bytes) -> str:
    return escape(visible(content.decode("utf-8", "backslashreplace"), keep="\n\t"))


def _class(one: BootResult) -> str:
    return _CLASSES.get(one.verdict, "bad")


def _anchor(one: BootResult) -> str:
    return escape(one.key.replace("/", "-"), quote=True)


def _words(text: str) -> str:
    """Text as HTML; a word that is too long for a line may be broken."""
    return "".join(
        piece
        if piece.isspace()
        else "<wbr>".join(
            escape(piece[start : start + _WORD]) for start in range(0, len(piece), _WORD)
        )
        for piece in re.split(r"(\s+)", text)
    )
