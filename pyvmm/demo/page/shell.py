# SPDX-License-Identifier: MIT
"""The page around the parts of a hand-out: its head, and the bar with which one steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyvmm.demo.page.parts import PARTS
from pyvmm.demo.page.words import said
from pyvmm.demo.telling.chapter import Chapter

KEYS = "n, b, r, 1-9 predict, g glossary, arrows in pictures"


def head(title: str, more: str) -> str:
    """The beginning of a page up to its body; `more` is HTML of its head."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{said(title)}</title>{more}</head>"
    )


def top() -> str:
    """The page's head line."""
    return (
        '<a class="skip" href="#main">To the step</a>'
        '<header class="top"><h1>Private guest memory, step by step</h1></header>'
        '<span id="main" tabindex="-1"></span>'
    )


def sections(parts: Mapping[str, str], names: Iterable[str]) -> str:
    """A section for each of some parts, which may be empty."""
    return "".join(
        f'<section data-part="{name}" aria-label="{PARTS[name]}">{parts.get(name, "")}</section>'
        for name in names
    )


def glossary(terms: Iterable[tuple[str, str]]) -> str:
    """Terms with their meanings, folded away; "" for none."""
    items = "".join(f"<dt>{said(term)}</dt><dd>{said(says)}</dd>" for term, says in terms)
    if not items:
        return ""
    return f'<details id="glossary"><summary>Glossary</summary><dl>{items}</dl></details>'


def bar(chapters: Iterable[Chapter], here: str, status: str) -> str:
    """The bar with which one steps, and the region that tells the news; needs a script.

    `here` is the id of the chapter that one is in, `status` HTML.
    """
    options = "".join(
        f'<option value="{said(one.id)}"{" selected" * (one.id == here)}>{said(one.title)}</option>'
        for one in chapters
    )
    return (
        '<div id="explains" class="explains" aria-hidden="true"></div>'
        f'<p id="status" class="quiet" role="status" aria-live="polite">{status}</p>'
        '<nav class="bar" aria-label="Steps" hidden>'
        '<button type="button" id="back">Back <kbd>b</kbd></button>'
        '<button type="button" id="next">Next <kbd>n</kbd></button>'
        '<button type="button" id="restart">Restart <kbd>r</kbd></button>'
        '<input type="range" id="scrub" min="0" max="0" value="0" aria-label="Moment">'
        '<output id="where" for="scrub"></output>'
        f'<select id="chapter" aria-label="Chapter">{options}</select>'
        f'<label><input type="checkbox" id="keys" checked> keys '
        f'<span class="faint hint">({KEYS})</span></label></nav>'
    )
