# SPDX-License-Identifier: MIT
"""The page as a document: chapters, controls, and the parts of a view, which a script exchanges."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.demo.page.parts import SHOWN, TOLD
from pyvmm.demo.page.shell import bar, glossary, head, sections, top
from pyvmm.demo.page.words import said
from pyvmm.demo.telling.chapter import Book

STATIC = {
    "app.css": "text/css; charset=utf-8",
    "stepper.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
}
"""Files beside the document."""
_LINKS = "".join(
    (
        '<link rel="icon" href="data:,">',
        '<link rel="stylesheet" href="/static/app.css">',
        '<script src="/static/stepper.js" defer></script>',
        '<script src="/static/live.js" defer></script>',
    )
)
_OWN_ACT = (
    '<form id="try"><label for="act">Try something of your own, as '
    "<code>read host 0 0x1000</code></label> "
    '<input type="text" id="act" maxlength="200" autocomplete="off" spellcheck="false"> '
    "<button>Try</button></form>"
)
_LEAVE = (
    '<p class="leave"><button type="button" data-leave="lecture" hidden>Leave the lecture</button> '
    '<button type="button" data-leave="machine">Leave, and free the machine</button></p>'
)


def document(book: Book, parts: Mapping[str, str]) -> str:
    """The whole document for a page with these parts; those that are not there yet are empty."""
    link = parts.get("@link", "")
    words = "".join(
        f' data-{name[1:]}="{said(word)}"' for name, word in parts.items() if name[0] == "@"
    )
    return "\n".join(
        (
            head("pyvmm demo", _LINKS),
            f'<body class="live"{words}>',
            top(),
            '<p id="connection" role="status">This page needs scripts to step on.</p>',
            '<p id="notice" role="alert" hidden></p>',
            '<main><article class="moment at"><div class="told">',
            _own_section("mine", "Your prediction", parts),
            _own_section("tally", "Predictions", parts),
            sections(parts, TOLD),
            _OWN_ACT,
            '<div id="trial"></div>',
            '</div><div class="shown">',
            sections(parts, SHOWN),
            "</div></article>",
            sections(parts, ("timeline",)),
            glossary(book.glossary),
            _LEAVE,
            "</main>",
            bar(book.chapters, link.partition("/")[0], parts.get("status", "")),
            "</body></html>",
            "",
        )
    )


def _own_section(name: str, title: str, parts: Mapping[str, str]) -> str:
    html = parts.get(name, "")
    return f'<section data-part="{name}" aria-label="{title}">{html}</section>'


def sentence_page(says: str) -> str:
    """A page that says one sentence."""
    icon = '<link rel="icon" href="data:,">'
    return f"{head('pyvmm demo', icon)}<body><main><h1>pyvmm demo</h1><p>{said(says)}</p></main>\n"
