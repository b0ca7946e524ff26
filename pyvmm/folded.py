# SPDX-License-Identifier: MIT
"""Lines of text in so many columns, and no more."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

_LEAST = 40
"""Columns; in fewer, indented text would be a letter wide."""


def folded(lines: Iterable[str], width: int) -> str:
    """`lines` in `width` columns (40 at least): what does not fit goes on in lines below.

    Those begin two columns further in than the line does. Words are kept whole if there is room for
    them in a line. The result has no newline at its end.
    """
    return "\n".join(
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            max(width, _LEAST),
            subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2),
            break_on_hyphens=False,
        )
        or [""]
    )
