# SPDX-License-Identifier: MIT
"""The page map of a state: a picture, and a table that says the same."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.demo.page.page_cells import Cell, PlacedMap, placed_map
from pyvmm.demo.page.words import said, table
from pyvmm.demo.telling.outcomes import Observed
from pyvmm.lifetime.graph_shapes import Text, width_of
from pyvmm.memory.page_picture import PagePicture, counted, picture_of
from pyvmm.rules.abi import PAGE_SIZE

_LETTERS = (
    ("P", "private: in the guest_memfd"),
    ("s", "shared: in the host's memory"),
    ("w", "withheld: every access leaves to the monitor"),
    (".", "no memory any more"),
    ("*", "changed in this step"),
)
_SQUARES = (
    "squares are filled where the kernel holds a page: the left one in the guest_memfd, the right "
    "one in the host's memory"
)


def pages_html(now: Observed, before: Observed | None, ids: str) -> str:
    """Guest memory of each VM; `before` for marks of change. `ids` begins the ids.

    "" on a stage that is about references alone.
    """
    if now.scenes and not now.memory:
        return ""
    vms = sorted({vm for vm, _ in now.memory} | {vm for vm, _ in (before or now).memory})
    parts = ["<h3>Guest memory</h3>"]
    if not vms:
        parts.append("<p>There is none: every guest-physical address is a hole.</p>")
    for vm in vms:
        parts += _of_vm(vm, _picture(vm, now, before), f"{ids}-vm{vm}")
    return "".join(parts)


def _picture(vm: int, now: Observed, before: Observed | None) -> PagePicture:
    was = now if before is None else before
    return picture_of(
        [run for number, run in now.memory if number == vm],
        [run for number, run in was.memory if number == vm],
        [(one.side, one.range) for one in now.resident if one.vm == vm],
        [(one.side, one.range) for one in was.resident if one.vm == vm],
    )


def _of_vm(vm: int, picture: PagePicture, ids: str) -> Iterator[str]:
    placed = placed_map(picture)
    yield f'<figure class="pages"><figcaption>VM {vm}: {said(picture.summary)}.</figcaption>'
    yield svg_of(placed, f"Guest-physical pages of VM {vm}", ids)
    used = {text.words[0] for row in placed.rows for cell in row for text in cell.texts}
    told = [f"<b>{letter}</b> {words}" for letter, words in _LETTERS if letter in used]
    if picture.knows_residency:
        told.append(_SQUARES)
    yield f'<p class="key">{"; ".join(told)}.</p>'
    if placed.left_out:
        yield f"<p>{placed.left_out} more runs of pages are not drawn.</p>"
    yield f"<details><summary>As a table</summary>{_table(picture, vm)}</details></figure>"


def _table(picture: PagePicture, vm: int) -> str:
    columns = ["from", "to", "size", "state", "change"]
    if picture.knows_residency:
        columns.insert(4, "the kernel holds")
    rows = []
    for piece in picture.pieces:
        row = [
            f"{piece.range.start:#x}",
            f"{piece.range.end - 1:#x}",
            counted(piece.range),
            "no memory" if piece.state is None else piece.state.value,
            said(piece.change) or "-",
        ]
        if picture.knows_residency:
            row.insert(4, piece.residency)
        rows.append(row)
    kind = "residency" if picture.knows_residency else "states"
    return f'<div class="wide">{table(columns, rows, f"Guest memory of VM {vm}", kind)}</div>'


def svg_of(placed: PlacedMap, name: str, ids: str) -> str:
    """Draw a placed map: a grid whose cells can be walked with arrows and say what they are."""
    size = f'width="{placed.width:g}" height="{placed.height:g}"'
    parts = [
        f'<svg class="page-map" {size} viewBox="0 0 {placed.width:g} {placed.height:g}" '
        f'role="grid" aria-label="{said(name)}" id="{ids}">'
    ]
    parts += [_text(text, ' class="address"') for text in placed.headings]
    first = True
    for row in placed.rows:
        parts.append('<g role="row">')
        for cell in row:
            parts.append(_cell(cell, first))
            first = False
        parts.append("</g>")
    return "".join((*parts, "</svg>"))


def _cell(cell: Cell, first: bool) -> str:
    rect = cell.rect
    state = "none" if cell.piece.state is None else cell.piece.state.value
    changed = " changed" if cell.piece.is_changed else ""
    wide = " wide" if cell.range.size > PAGE_SIZE else ""
    stop = 0 if first else -1
    parts = [
        f'<g class="cell {state}{changed}{wide}" role="gridcell" tabindex="{stop}">'
        f"<title>{said(cell.about)}</title>"
        f'<rect x="{rect.x + 1:g}" y="{rect.y + 1:g}" width="{rect.width - 2:g}" '
        f'height="{rect.height - 2:g}"/>'
    ]
    for kind in ("held", "free"):
        way = "".join(
            f"M{at.x:g} {at.y:g}h{at.width:g}v{at.height:g}h-{at.width:g}z"
            for _, at, filled in cell.squares
            if filled is (kind == "held")
        )
        if way:
            parts.append(f'<path class="{kind}" d="{way}"/>')
    parts += [_text(text) for text in cell.texts]
    return "".join((*parts, "</g>"))


def _text(text: Text, kind: str = "") -> str:
    """Write a text as wide as it was placed in whatever font there is; a letter fits in any."""
    width = ""
    if len(text.words) > 1:
        length = width_of(text.words, text.role)
        width = f' textLength="{length:g}"'
    return f'<text{kind} x="{text.x:g}" y="{text.y:g}"{width}>{said(text.words)}</text>'
