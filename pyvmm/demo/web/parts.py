# SPDX-License-Identifier: MIT
"""Parts of the page for a view: the writers' HTML, and words for the page's script."""

from __future__ import annotations

from pyvmm.demo.page.parts import view_html
from pyvmm.demo.telling.player import View


def parts_of(view: View) -> dict[str, str]:
    """HTML by the part's name; a name that begins with ``@`` has words that are no HTML.

    ``@moments`` is the number of kept ones, ``@at`` that of the one that is shown, "" for none.
    """
    shown = [number for number, one in enumerate(view.moments) if one is view.moment]
    return {
        **view_html(view),
        "@phase": view.phase.value,
        "@link": view.link,
        "@moments": str(len(view.moments)),
        "@at": str(shown[0]) if shown else "",
    }
