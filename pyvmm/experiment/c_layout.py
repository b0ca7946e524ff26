# SPDX-License-Identifier: MIT
"""Declarations rewritten to what a parser of plain C lays out as a compiler of the kernel's does.

GNU C, which headers are written in, has structures of size 0, arrays of length 0 anywhere, and
attributes. What cannot be said in plain C is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pyvmm.experiment.c_text import DeclarationError, Place

_ALIGNED = re.compile(r"__attribute__\s*\(\(\s*_*aligned_*\s*\(\s*(\w+)\s*\)\s*\)\)")
_OTHER_ATTRIBUTE = re.compile(r"__attribute__\s*\(\(.*?\)\)", re.DOTALL)
_EIGHT_BYTES = re.compile(r"(u64|s64|long|__le64|__be64)(\s+\w+)?\s*$")
_EMPTY = re.compile(r"\bstruct\s*\{\s*\}\s*\w+\s*;")
_INNER = re.compile(r"\b(?:struct|union)\s*\{([^{}]*)\}\s*(\w*)\s*;")
_ZERO_MEMBER = re.compile(r"\s*([\w\s*]+?)\s*(\w+)\s*\[\s*0?\s*\]\s*")
_AGGREGATE = re.compile(r"\b(struct|union)\b[^{};]*\{")
_MEMBER = re.compile(r"\b(struct|union)\s*\{([^{}]*)\}\s*(\w+)")
_LENGTH = re.compile(r"\[([^\[\]]*)\]")
_LONGEST = (1 << 31) - 1
"""Elements of an array: with more, sizes would not fit the parser's integers."""
_OPEN = re.compile(r"\[\s*\](?!\s*;\s*\}\s*\w*\s*$)")
_LAST_ZERO = re.compile(r"\[\s*0\s*\](\s*;\s*\}\s*\w*\s*)$")


def plain(text: str, what: str, place: Place, length: Callable[[str], int]) -> str:
    """`text` of a structure, union or typedef in plain C; `length` computes an array's.

    Raises `DeclarationError`.
    """
    text = _without_attributes(text, what, place)
    text = _LENGTH.sub(lambda found: _computed(found, what, place, length), text)
    text = _EMPTY.sub("", text)
    while True:
        flat = _INNER.sub(_of_no_size, text)
        if flat == text:
            break
        text = flat
    # An array without a length is the last member of all; others have none either, written so.
    text = _OPEN.sub("[0]", text)
    return _LAST_ZERO.sub(r"[]\1", text)


def members_apart(text: str, numbers: Iterator[int]) -> tuple[str, list[str]]:
    """Give the types of members that are declared inside of `text` names of their own.

    The text with these, made of `numbers`, and the declarations to come before it, in order. What
    has no name as a member stays.
    """
    apart: list[str] = []
    first, last = text.find("{") + 1, text.rfind("}")
    inside = text[first:last]

    def named(found: re.Match[str]) -> str:
        name = f"{found[1]} pyvmm_inner_{next(numbers)}"
        apart.append(f"{name} {{{found[2]}}}")
        return f"{name} {found[3]}"

    while True:
        flat = _MEMBER.sub(named, inside)
        if flat == inside:
            return text[:first] + inside + text[last:], apart
        inside = flat


def inner_aggregates(text: str) -> Iterator[str]:
    """Yield the structures and unions, without names, that are declared inside of `text`."""
    starts = list(_AGGREGATE.finditer(text))
    for found in starts[1:]:
        depth = 0
        for at in range(found.end() - 1, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if not depth:
                yield f"{found[1]} {text[found.end() - 1 : at + 1]}"
                break


def _computed(found: re.Match[str], what: str, place: Place, length: Callable[[str], int]) -> str:
    text = found[1].strip()
    if not text:
        return "[]"
    count = int(text) if text.isdecimal() and not text.startswith("0") else length(text)
    if count > _LONGEST:
        raise DeclarationError(f"{what} ({place})", f"an array of {count} elements")
    return f"[{count}]"


def _of_no_size(found: re.Match[str]) -> str:
    """Members of length 0 instead of the structure or union that has no others."""
    members = [_ZERO_MEMBER.fullmatch(one) for one in found[1].split(";") if one.strip()]
    kinds = [one for one in members if one is not None]
    if not kinds or len(kinds) != len(members):
        return found[0]
    if found[2]:
        return f"{kinds[0][1]} {found[2]}[0];"
    return " ".join(f"{one[1]} {one[2]}[0];" for one in kinds)


def _without_attributes(text: str, what: str, place: Place) -> str:
    """Drop alignments that change nothing. Raises `DeclarationError` for other attributes."""

    def dropped(match: re.Match[str]) -> str:
        if match[1] == "8" and _EIGHT_BYTES.search(text[: match.start()]):
            return ""
        raise _not_understood(match[0], what, place)

    text = _ALIGNED.sub(dropped, text)
    other = _OTHER_ATTRIBUTE.search(text)
    if other is not None:
        raise _not_understood(other[0], what, place)
    return text


def _not_understood(attribute: str, what: str, place: Place) -> DeclarationError:
    return DeclarationError(
        f"{what} ({place})",
        f"{attribute} is not understood here",
        "leave it out, and write the padding as a field",
    )
