# SPDX-License-Identifier: MIT
"""Files that a page is made of beside its HTML: a style, and scripts."""

from __future__ import annotations

from importlib.resources import files

from pyvmm.lifetime.graph_svg import style as graph_style


def style() -> str:
    """The style of every page, with that of graphs."""
    return f"{_text('app.css')}{graph_style('svg.pins')}\n"


def script(name: str = "stepper.js") -> str:
    """A script of the page. Raises `FileNotFoundError` for one that there is not."""
    return _text(name)


def _text(name: str) -> str:
    return files("pyvmm.demo.page").joinpath("static", name).read_text(encoding="utf-8")
