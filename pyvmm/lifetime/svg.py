# SPDX-License-Identifier: MIT
"""The same drawing as one SVG file: a column for each design, a row for each step."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.lifetime.drawing import KEY, Drawn, Scene, shown_name, shown_reason
from pyvmm.lifetime.holdings import Holding

_ROOMS = ("process", "vm", "slot", "file", "inode")
_ROOM_WIDTH = 150
_LOWER = {"process": 75, "vm": 0, "slot": 0, "file": 150, "inode": 150}
"""Vertical start of each room, so that no arrow runs behind a box of a room between."""
_BOX = (84, 44)
_LINE_HEIGHT = 204
_COLUMN = _ROOM_WIDTH * len(_ROOMS) + 30
_HEAD = 60

_STYLE = (
    "text{font:12px sans-serif;fill:#111} .t{font-weight:bold} .r{font-size:9px;fill:#555} "
    "rect{fill:#fff;stroke:#333} .gone{fill:#a00} "
    "line{stroke:#bbb;stroke-dasharray:4 3} line.pins{stroke:#06c;stroke-width:2;"
    "stroke-dasharray:none} .frame{fill:none;stroke:#ddd}"
)


def _escaped(words: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        words = words.replace(character, entity)
    return words


def _text(x: int, y: int, words: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{mark}>{_escaped(words)}</text>'


def svg(drawn: Sequence[Drawn]) -> str:
    """The file's text."""
    rows = max(len(each.scenes) for each in drawn)
    heights = [
        max(_height(each.scenes[row]) for each in drawn if row < len(each.scenes))
        for row in range(rows)
    ]
    width, height = _COLUMN * len(drawn) + 20, _HEAD + sum(heights) + 10
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
        _text(10, 18, KEY.replace("==>", "solid:").replace("-->", "dashed:"), "r"),
    ]
    for column, each in enumerate(drawn):
        left, top = 10 + column * _COLUMN, _HEAD
        out.append(_text(left + 8, 44, each.design, "t"))
        for row, scene_height in enumerate(heights):
            out.append(
                f'<rect class="frame" x="{left}" y="{top}" width="{_COLUMN - 10}" '
                f'height="{scene_height - 6}"/>'
            )
            if row < len(each.scenes):
                out += _scene(each.scenes[row], left, top)
            else:
                out.append(_text(left + 8, top + 18, "(cannot be done here)", "r"))
            top += scene_height
    out.append("</svg>")
    return "\n".join(out) + "\n"


def _boxes(scene: Scene) -> dict[str, tuple[int, int]]:
    """Compute the place of each object: (room, line)."""
    names = [name for name, _ in scene.objects]
    for holding, _ in scene.edges:
        names += [_object(holding.holder), _object(holding.held)]
    lines = dict.fromkeys(_ROOMS, 0)
    placed: dict[str, tuple[int, int]] = {}
    for name in sorted(dict.fromkeys(names)):
        room = name.rstrip("0123456789")
        placed[name] = (_ROOMS.index(room), lines[room])
        lines[room] += 1
    return placed


def _object(name: str) -> str:
    """``inode0`` for ``inode0 page1``."""
    return name.partition(" ")[0]


def _height(scene: Scene) -> int:
    lines = max((line + 1 for _, line in _boxes(scene).values()), default=1)
    return 36 + lines * _LINE_HEIGHT + 16 * bool(scene.freed)


def _scene(scene: Scene, left: int, top: int) -> list[str]:
    out = [_text(left + 8, top + 18, scene.title, "t")]
    placed = _boxes(scene)
    number = dict(scene.objects)

    def corner(name: str) -> tuple[int, int]:
        room, line = placed[name]
        down = _LOWER[_ROOMS[room]] + line * _LINE_HEIGHT
        return left + 12 + room * _ROOM_WIDTH, top + 34 + down

    ends: dict[tuple[str, bool], int] = {}

    def next_end(name: str, right: bool) -> tuple[int, int]:
        """Return the point where the next arrow touches this side of a box: each a little lower."""
        count = ends[name, right] = ends.get((name, right), -1) + 1
        x, y = corner(name)
        return x + (_BOX[0] if right else 0), y + 8 + 10 * (count % 4)

    for holding, times in scene.edges:
        holder, held = _object(holding.holder), _object(holding.held)
        forward = placed[holder][0] <= placed[held][0]
        out += _edge(holding, times, next_end(holder, forward), next_end(held, not forward))
    for name in placed:
        x, y = corner(name)
        references = f" ({number[name]})" if name in number else ""
        out.append(f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="4"/>')
        out.append(_text(x + 8, y + 27, shown_name(name) + references))
    if scene.freed:
        words = "freed: " + ", ".join(scene.freed)
        out.append(_text(left + 8, top + _height(scene) - 14, words, "gone"))
    return out


def _edge(holding: Holding, times: int, start: tuple[int, int], end: tuple[int, int]) -> list[str]:
    """An arrow, with its reason where it begins."""
    kind = ' class="pins"' if holding.why.pins else ""
    words = shown_reason(holding) + (f" x{times}" if times > 1 else "")
    forward = start[0] <= end[0]
    x = start[0] + (4 if forward else -4 - 5 * len(words))
    return [
        f'<line{kind} x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" '
        'marker-end="url(#a)"/>',
        _text(x, start[1] - 2, words, "r"),
    ]
