# SPDX-License-Identifier: MIT
"""A table of a TOML file, of which nothing is taken that is not understood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

_SECONDS_MAX = 86400.0
_SHOWN = 60
Value = TypeVar("Value")


class Mistake(Exception):  # noqa: N818 - becomes a `UsageError`, which names the file
    """One mistake in the file: the cause, and what to do."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy


def text_of(value: object) -> str:
    """The text that `value` is. Raises ValueError where it is none, or has a zero byte."""
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004 - told with the others
    if "\0" in value:
        raise ValueError("text with a zero byte in it")
    return value


class Table:
    """A table of the file, `place` in words; every mistake is told with its place."""

    def __init__(self, place: str, content: Mapping[str, object]) -> None:
        self.place = place
        self._content = content

    def knows(self, *keys: str) -> None:
        """See that there are no other keys."""
        for key in self._content:
            if key not in keys:
                near = get_close_matches(key[:99], keys, 1)
                raise Mistake(
                    f"{self.place} has a key that is not known, {_shown(key)}",
                    f"is {near[0]} meant?" if near else f"the keys are {', '.join(keys)}",
                )

    def value(self, key: str, of: Callable[[object], Value]) -> Value | None:
        """Value of `key` by `of`, which raises ValueError for what it is not; None without it."""
        return None if key not in self._content else self._checked(key, self._content[key], of)

    def _checked(self, key: str, value: object, of: Callable[[object], Value]) -> Value:
        try:
            return of(value)
        except ValueError as error:
            cause = f"{self.place}: {key}: {_shown(value)} is {error}"
            raise Mistake(cause, "mend that") from None

    def text(self, key: str) -> str | None:
        """Text, or None."""
        return self.value(key, text_of)

    def flag(self, key: str) -> bool:
        """True or false, which it is where nothing is said."""
        value = self._content.get(key, False)
        if not isinstance(value, bool):
            raise Mistake(f"{self.place}: {key} is neither true nor false", "make it one of them")
        return value

    def seconds(self, key: str) -> float | None:
        """Seconds, above 0 and up to a day."""
        return self.value(key, _seconds)

    def _list(self, key: str) -> list[object] | None:
        if key not in self._content:
            return None
        value = self._content[key]
        return value if isinstance(value, list) else [value]

    def texts(self, key: str, of: Callable[[object], str] = text_of) -> tuple[str, ...] | None:
        """A text or a list of texts, none empty."""
        values = self._list(key)
        if values is None:
            return None
        texts = tuple(self._checked(key, value, of) for value in values)
        if "" in texts:
            raise Mistake(f"{self.place}: {key} has an empty text", "take that out")
        return texts

    def values(
        self, key: str, of: Callable[[object], Value], shown: Callable[[Value], str]
    ) -> tuple[Value, ...] | None:
        """Values of an axis, at least one and none twice."""
        given = self._list(key)
        if given is None:
            return None
        if not given:
            raise Mistake(f"{self.place} has no {key}", "give it one or more")
        values: dict[Value, None] = {}
        for one in given:
            value = self._checked(key, one, of)
            if value in values:
                raise Mistake(f"{self.place}: {key} has {shown(value)} twice", "take one out")
            values[value] = None
        return tuple(values)

    def chosen(
        self,
        key: str,
        of: Callable[[object], Value],
        known: Mapping[Value, None],
        shown: Callable[[Value], str],
    ) -> frozenset[Value] | None:
        """Values of a selection, all `known`; None for any."""
        values = self.values(key, of, shown)
        if values is None:
            return None
        for value in values:
            if value not in known:
                names = [shown(one) for one in known]
                raise Mistake(
                    f"{self.place}: {key}: no combination has {shown(value)}"
                    f"{nearest(shown(value), names)}",
                    "mend that, or take it out",
                )
        return frozenset(values)

    def table(self, key: str) -> Table:
        """The table called `key`, empty where there is none."""
        content = self._content.get(key, {})
        if not isinstance(content, dict):
            raise Mistake(f"{self.place}: {key} is no table", f"write it as [{key}]")
        return Table(f"{self.place}, {key}", content)

    def named_tables(self, key: str) -> list[tuple[str, Table]]:
        """The tables [key.NAME] and their names, none where there are none."""
        content = self._content.get(key, {})
        if not isinstance(content, dict) or not all(
            isinstance(one, dict) for one in content.values()
        ):
            raise Mistake(f"{key} is no table of tables", f"write each as [{key}.NAME]")
        return [(name, Table(f"[{key}.{name[:_SHOWN]}]", one)) for name, one in content.items()]

    def tables(self, key: str) -> list[Table]:
        """The tables of the list called `key`, none where there is none."""
        content = self._content.get(key, [])
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise Mistake(f"{key} is no list of tables", f"write each as [[{key}]]")
        return [Table(f"[[{key}]] {number}", one) for number, one in enumerate(content, 1)]


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than some thousand digits.
        return "a number"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def nearest(value: object, known: Iterable[str]) -> str:
    """A question after the known word that is most like `value`, "" where none is."""
    if not isinstance(value, str):
        return ""
    found = get_close_matches(value[:99], [*known], 1)
    return f" (is {found[0]} meant?)" if found else ""


def _seconds(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int | float) and is_number and 0 < value <= _SECONDS_MAX:
        return float(value)
    raise ValueError(f"no number of seconds above 0 and up to {_SECONDS_MAX:.0f}")
