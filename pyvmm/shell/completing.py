# SPDX-License-Identifier: MIT
"""Tab completion at the prompt (readline)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def completing(names: dict[str, object]) -> Iterator[None]:
    """Complete names, attributes and keywords by Tab meanwhile; nothing without readline."""
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    before = readline.get_completer()
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
