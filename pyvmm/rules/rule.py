# SPDX-License-Identifier: MIT
"""Rules: what each one is, and how a request is judged by an ordered list of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyvmm.rules.abi import EHWPOISON
from pyvmm.rules.profile import Profile

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request was refused: `errno` as the kernel gives it, the rule's name, and why: one line."""

    errno: int
    rule: str
    cause: str

    @property
    def errno_name(self) -> str:
        """``EINVAL`` and the like."""
        return errno_name(self.errno)

    def __str__(self) -> str:
        return f"{self.errno_name}: {self.cause}"


def errno_name(number: int) -> str:
    """``EINVAL`` and the like, as Linux's manual pages have them."""
    if number == EHWPOISON:
        return "EHWPOISON"
    # Linux has one number for these two, and its manual pages say EOPNOTSUPP.
    name = errno.errorcode[number]
    return "EOPNOTSUPP" if name == "ENOTSUP" else name


@dataclass(frozen=True, slots=True)
class Rule(Generic[Request]):
    """One reason to refuse a request.

    `cause` says in one line what is wrong; `source` where the kernel says so: a function, an
    api.rst section. `errno` is a number, or what gives it for a profile.
    """

    name: str
    cause: str
    source: str
    errno: int | Callable[[Profile], int]
    refuses: Callable[[Request, Profile], bool]

    def errno_for(self, profile: Profile) -> int:
        """The errno that a kernel of this profile gives."""
        return self.errno if isinstance(self.errno, int) else self.errno(profile)


def judge(rules: Sequence[Rule[Request]], request: Request, profile: Profile) -> Refusal | None:
    """The refusal of the first rule that refuses, in the kernel's order; None where none does."""
    for rule in rules:
        if rule.refuses(request, profile):
            return Refusal(rule.errno_for(profile), rule.name, rule.cause)
    return None
