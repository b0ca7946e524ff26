# SPDX-License-Identifier: MIT
"""The configuration fragment: what the lab's kernel has, and whether Kconfig went along."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import NoInputError, UsageError

FRAGMENT = Path(__file__).parent / "lab.config"
_WHERE_KNOWN = "# where known"
_OPTION = re.compile(r"(CONFIG_\w+)=(\S.*)|# (CONFIG_\w+) is not set")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A configuration fragment. Values are as in .config; "n" stands for "is not set".

    `required` must come out of Kconfig as they went in; `wished` too where the kernel knows them.
    """

    text: str
    required: dict[str, str]
    wished: dict[str, str]

    @property
    def hash(self) -> str:
        """Of what Kconfig sees: comments and order do not count."""
        options = sorted({**self.required, **self.wished}.items())
        return hashlib.sha256(repr(options).encode()).hexdigest()

    def dropped(self, config: str) -> list[str]:
        """The options that the .config with the text `config` does not have as required."""
        got = parse(config)[0]
        return [name for name, value in self.required.items() if got.get(name, "n") != value]

    def with_more(self, text: str) -> Fragment:
        """This one, with the options of another fragment's `text` on top, all of them required."""
        more = dict(part for both in parse(text) for part in both.items())
        return Fragment(
            f"{self.text}\n{text}\n",
            {**self.required, **more},
            {name: value for name, value in self.wished.items() if name not in more},
        )


def read_fragment(path: Path) -> str:
    """The text of a fragment of the user's. Raises `NoInputError` and `UsageError`."""
    attempt = f"use the configuration fragment {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NoInputError(attempt, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise UsageError(attempt, "it is not text") from error
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare and not bare.startswith("#") and not _OPTION.fullmatch(bare):
            raise UsageError(
                attempt,
                f"line {number} is no option: {bare[:60]!r}",
                "write CONFIG_NAME=y, or # CONFIG_NAME is not set",
            )
    if not any(parse(text)):
        raise UsageError(attempt, "there is no option in it")
    return text


def parse(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The options of a .config or fragment: before and after its "where known" line."""
    required: dict[str, str] = {}
    wished: dict[str, str] = {}
    target = required
    for line in text.splitlines():
        if line.startswith(_WHERE_KNOWN):
            target = wished
        elif found := _OPTION.fullmatch(line.strip()):
            name, value, unset = found.groups()
            target[name or unset] = value or "n"
    return required, wished


def lab_fragment() -> Fragment:
    """The project's own."""
    text = FRAGMENT.read_text(encoding="ascii")
    return Fragment(text, *parse(text))
