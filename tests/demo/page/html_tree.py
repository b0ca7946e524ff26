# SPDX-License-Identifier: MIT
"""HTML as a tree, by a reader that forgives nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "input", "wbr", "br", "img"}
_DRAWN = {"rect", "path", "circle"}


@dataclass
class Element:
    """An element with its attributes; `text` is all text inside."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def walk(self) -> Iterator[Element]:
        """Itself and everything inside, in order."""
        yield self
        for child in self.children:
            yield from child.walk()


class _Strict(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        made = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(made)
        if tag not in _VOID:
            self._open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _DRAWN, f"<{tag}/> is not closed by that in HTML"
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> in <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for one in self._open:
            one.text += data

    def close(self) -> None:
        super().close()
        assert self._open == [self.root], f"<{self._open[-1].name}> is left open"


def tree(html: str) -> Element:
    """The tree of a page or of a part. Fails where an element is not closed, or not in order."""
    parser = _Strict()
    parser.feed(html)
    parser.close()
    return parser.root
