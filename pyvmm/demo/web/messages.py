# SPDX-License-Identifier: MIT
"""Messages between page and server: a reader's wishes in, the changed parts of the page out.

From the page: a JSON object of one wish, as ``{"move": "next"}``, ``{"predict": "a"}``,
``{"jump": "slots/overlap"}``, ``{"consider": "read host 0 0x1000"}``, which brings the question,
``{"try": "read host 0 0x1000", "predicted": "zero"}``, ``{"look": "0"}``, ``{"leave": "lecture"}``,
and perhaps ``"seen"``, the number of the last message that the reader saw. To the page: ``number``,
``parts`` (HTML by name, "" for one that is gone; names that begin with ``@`` are words, not HTML),
and ``whole`` where these are all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.demo.page.steps import question_html
from pyvmm.demo.page.words import said
from pyvmm.demo.telling.acts import Act, act_words, parse_act
from pyvmm.demo.telling.player import Jump, LookAt, Move, Plain, Predict, Try
from pyvmm.demo.telling.predictions import question_of
from pyvmm.errors import UsageError

MESSAGE_LIMIT = 4 << 10
"""Bytes of a message from a page."""
_ATTEMPT = "take a message"
_LARGEST = 1 << 53
_NUMBER = re.compile("[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class LeaveMachine:
    """Free the reader's machine at once."""


@dataclass(frozen=True, slots=True)
class LeaveLecture:
    """Follow no more, and get a machine of one's own."""


@dataclass(frozen=True, slots=True)
class Consider:
    """Be asked for a prediction before an act is tried; nothing is done yet."""

    act: Act


Wish: TypeAlias = Move | LeaveMachine | LeaveLecture | Consider


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish, and the number of the last message that its reader had seen; None: any."""

    wish: Wish
    seen: int | None = None


def read_asked(data: str) -> Asked:
    """The wish in a message. Raises `UsageError` for anything else."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError(_ATTEMPT, "this is no step") from None
    if not isinstance(plain, dict):
        raise UsageError(_ATTEMPT, "this is no step")
    seen = plain.pop("seen", None)
    is_number = isinstance(seen, int) and not isinstance(seen, bool) and 0 <= seen < _LARGEST
    if seen is not None and not is_number:
        raise UsageError(_ATTEMPT, "this is no step")
    if not all(isinstance(one, str) for one in plain.values()):
        raise UsageError(_ATTEMPT, "this is no step")
    return Asked(_wish(plain), seen)


def _wish(plain: dict[str, str]) -> Wish:
    match plain:
        case {"move": name, **rest} if not rest and name in {one.value for one in Plain}:
            return Plain(name)
        case {"predict": key, **rest} if not rest:
            return Predict(key)
        case {"jump": link, **rest} if not rest:
            chapter, _, step = link.partition("/")
            return Jump(chapter, step)
        case {"look": number, **rest} if not rest and _NUMBER.fullmatch(number):
            return LookAt(int(number))
        case {"try": words, **rest} if rest.keys() <= {"predicted"}:
            return Try(parse_act(words), rest.get("predicted"))
        case {"consider": words, **rest} if not rest:
            return Consider(parse_act(words))
        case {"leave": "machine", **rest} if not rest:
            return LeaveMachine()
        case {"leave": "lecture", **rest} if not rest:
            return LeaveLecture()
    raise UsageError(_ATTEMPT, "this is no step")


def notice(says: str) -> str:
    """A message to one tab alone, which changes no part."""
    return json.dumps({"notice": says})


def trial(act: Act) -> str:
    """A message to one tab alone: the question before an act that its reader wants to try."""
    words = act_words(act)
    says = f"<p>You try: <code>{said(words)}</code></p>"
    return json.dumps({"trial": words, "html": says + question_html(question_of(act))})


BEAT = json.dumps({"beat": True})
"""Message that only says that the server is there."""


class Story:
    """Parts of a reader's page, each with the number of the message that changed it last.

    So whoever has seen any number gets what is new since then in one message, however long they
    were away, and nothing is kept for them.
    """

    def __init__(self) -> None:
        self.number = 0
        self._parts: dict[str, tuple[int, str]] = {}

    def tell(self, parts: Mapping[str, str]) -> bool:
        """Make these the parts; gives False where nothing has changed."""
        gone = {name: "" for name in self._parts if name not in parts}
        now = {**parts, **gone}
        changed = {
            name: text
            for name, text in now.items()
            if name not in self._parts or self._parts[name][1] != text
        }
        if changed:
            self.number += 1
            self._parts.update({name: (self.number, text) for name, text in changed.items()})
        return bool(changed)

    @property
    def parts(self) -> dict[str, str]:
        """All parts as they are now."""
        return {name: text for name, (_, text) in self._parts.items()}

    def since(self, number: int) -> str:
        """The message for a page that has seen `number`; of an unknown one: everything."""
        whole = not 0 < number <= self.number
        parts = {name: text for name, (at, text) in self._parts.items() if whole or at > number}
        return json.dumps({"number": self.number, "parts": parts, "whole": whole})
