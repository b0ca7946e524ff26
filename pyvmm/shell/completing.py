# SPDX-License-Identifier: MIT
"""Tab completion at the prompt: names, attributes, and in a call the fields that it takes."""

from __future__ import annotations

import inspect
import re
import rlcompleter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyvmm.experiment.ioctls import Ioctl

_CALL = re.compile(r"([A-Za-z_][\w.]*)\(([^()]*)$")
_WORD = re.compile(r"\w*$")


class Completer(rlcompleter.Completer):
    """Completes what stands before the cursor with names of `names`; nothing is called for it."""

    def __init__(self, names: dict[str, object]) -> None:
        super().__init__(names)
        self._names = names
        self._found: list[str] = []

    def matches(self, line: str) -> list[str]:
        """All words that the last one in `line` can become."""
        word = _WORD.search(line)
        text = "" if word is None else word[0]
        dotted = re.search(r"[\w.]*$", line)
        if dotted is not None and "." in dotted[0]:
            return sorted(set(self.attr_matches(dotted[0])))
        fields = [f"{name}=" for name in self._fields(line) if name.startswith(text)]
        return fields + sorted(set(self.global_matches(text)) if text else ())

    def complete(self, _text: str, state: int) -> str | None:
        """As readline asks: the match number `state` for what stands before the cursor."""
        import readline

        if state == 0:
            line = readline.get_line_buffer()[: readline.get_endidx()]
            if not line.strip():
                self._found = ["\t"]
            else:
                self._found = self.matches(line)
        return self._found[state] if state < len(self._found) else None

    def _fields(self, line: str) -> Iterator[str]:
        """Names of arguments of the call that the cursor is in, those given already left out."""
        call = _CALL.search(line)
        if call is None:
            return
        given = set(re.findall(r"(\w+)\s*=", call[2]))
        for name in fields_of_call(self._names, call[1]):
            if name not in given:
                yield name


def fields_of_call(names: Mapping[str, object], dotted: str) -> list[str]:
    """Names that can be given to what `dotted` names: of an ioctl, its argument's fields."""
    first, *rest = dotted.split(".")
    found = names.get(first)
    try:
        for name in rest:
            found = getattr(found, name)
        if isinstance(found, Ioctl):
            return list(found.fields())
        if not callable(found):
            return []
        parameters = inspect.signature(found).parameters.values()
    except (AttributeError, ValueError, TypeError):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in parameters if one.kind in named]


@contextmanager
def completing(names: dict[str, object]) -> Iterator[None]:
    """Complete by Tab meanwhile; nothing where Python has no readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(Completer(names).complete)
    readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)
