# SPDX-License-Identifier: MIT
"""C text taken apart, without compiling it: macros, enumerators and declarations, with their lines.

It takes what uapi headers are written in: `#define`, comments, structures, unions, enumerations and
typedefs. Other preprocessor directives are for a preprocessor to resolve first (`headers`); its
line markers are understood. Functions and prototypes are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.errors import UsageError

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w*)\s*(.*)", re.DOTALL)
_MACRO = re.compile(r"(\w+)(?:\(([^()]*)\))?\s*(.*)", re.DOTALL)
_MARKER = re.compile(r"(\d+)(?:\s+\"([^\"]*)\")?")
_PACKED = re.compile(r"__attribute__\s*\(\(\s*_*packed_*\s*\)\)|\b__packed\b")
_ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)")
_AGGREGATE = re.compile(r"\b(?:struct|union)\b[^{};]*\{")
_EXTENSION = re.compile(r"\b(?:__extension__|__user|__force|volatile)\b")
_TAG = re.compile(r"\b(struct|union|enum)\s+(\w+)\s*\{")
_ENUM = re.compile(r"\benum\b(?:\s+\w+)?\s*\{([^{}]*)\}")
_LAST_NAME = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*$")
_FUNCTION_POINTER = re.compile(r"\(\s*\*\s*(\w+)\s*\)")


class DeclarationError(UsageError):
    """A declaration that cannot be: it does not parse, contradicts itself or names the unknown."""

    def __init__(self, what: str, cause: str, remedy: str = "") -> None:
        super().__init__(f"declare {_one_line(what)}", _one_line(cause), remedy)


class Place(NamedTuple):
    """Line of a file, from 1 on; `file` is "" for text that is in none."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else f"line {self.line}"


class Macro(NamedTuple):
    """A macro; `parameters` is None for one that takes none."""

    name: str
    parameters: tuple[str, ...] | None
    text: str
    place: Place


class Declaration(NamedTuple):
    """A declaration up to its semicolon, which is left out, and the type names that it makes.

    A name has its keyword: "struct kvm_run"; a typedef's has none. `packed`: without padding, and
    what is declared inside of it as well where `packed_inside`.
    """

    text: str
    names: tuple[str, ...]
    packed: bool
    place: Place
    packed_inside: bool = False


class CText(NamedTuple):
    """All that a text declares: macros, enumerators among them, by name."""

    macros: dict[str, Macro]
    declarations: tuple[Declaration, ...]
    enumerators: frozenset[str] = frozenset()


def parse(text: str, file: str = "") -> CText:
    """Take `text` apart. Raises `DeclarationError`."""
    macros: dict[str, Macro] = {}
    kept: list[tuple[str, Place]] = []
    for line, place in _logical_lines(_without_comments(text), file):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            kept.append((line, place))
        else:
            _directive(directive, macros, place)
    declarations = tuple(_declarations(kept))
    constants = set()
    for declaration in declarations:
        for name, value in enumerators(declaration):
            # Headers have macros of enumerators' own names, for #ifdef.
            if name not in macros or macros[name].text == name:
                macros[name] = Macro(name, None, value, declaration.place)
                constants.add(name)
    return CText(macros, declarations, frozenset(constants))


def _without_comments(text: str) -> str:
    def blank(match: re.Match[str]) -> str:
        found = match[0]
        return " " + "\n" * found.count("\n") if found.startswith("/") else found

    return _COMMENT.sub(blank, text)


def _logical_lines(text: str, file: str) -> Iterator[tuple[str, Place]]:
    """Lines, those that a backslash continues joined; with their places, as markers say."""
    number, waiting, start = 0, "", 0
    for line in text.split("\n"):
        number += 1
        if not waiting:
            start = number
        if line.endswith("\\"):
            waiting += line[:-1] + " "
            continue
        whole, waiting = waiting + line, ""
        directive = _DIRECTIVE.match(whole)
        rest = "" if directive is None else f"{directive[1]} {directive[2]}".strip()
        marker = _MARKER.match(rest.removeprefix("line ").strip()) if directive else None
        if marker is not None:
            number = int(marker[1]) - 1
            # What a preprocessor is given has no name.
            file = "" if marker[2] == "<stdin>" else marker[2] or file
        elif whole.strip():
            yield whole, Place(file, start)
    if waiting.strip():
        yield waiting, Place(file, start)


def _directive(found: re.Match[str], macros: dict[str, Macro], place: Place) -> None:
    kind, rest = found[1], found[2].strip()
    if kind == "define":
        macro = _MACRO.match(rest)
        if macro is None:
            raise DeclarationError(f"a macro ({place})", f"#define {rest!r} has no name")
        listed = macro[2]
        parameters = (
            None if listed is None else tuple(one.strip() for one in listed.split(",") if one)
        )
        macros[macro[1]] = Macro(macro[1], parameters, macro[3].strip(), place)
    elif kind == "undef":
        macros.pop(rest, None)
    elif kind not in {"", "pragma", "ident"}:
        raise DeclarationError(
            f"C text ({place})",
            f"#{kind} is for a preprocessor to resolve",
            "name the folder of the headers that go with it: declare(text, tree=...)",
        )


def _declarations(lines: list[tuple[str, Place]]) -> Iterator[Declaration]:
    depth, place = 0, Place("", 0)
    parts: list[str] = []
    for line, where in lines:
        for piece in re.findall(r"[{}();]|[^{}();]+", line):
            if not parts and not piece.strip():
                continue
            if not parts:
                place = where
            if piece in "{(":
                depth += 1
            elif piece in "})":
                depth -= 1
                if depth < 0:
                    raise DeclarationError(f"C text ({where})", f"a {piece!r} that closes nothing")
            if piece == ";" and depth == 0:
                yield from _declaration("".join(parts), place)
                parts = []
                continue
            parts.append(piece)
            if piece == "}" and depth == 0 and _is_function("".join(parts)):
                parts = []
        if parts:
            parts.append("\n")
    rest = "".join(parts).strip()
    if rest:
        cause = "it ends without a semicolon" if depth == 0 else "a bracket is not closed"
        raise DeclarationError(f"C text ({place})", f"{cause}: {_short(rest)}")


def _is_function(text: str) -> bool:
    return text.partition("{")[0].rstrip().endswith(")")


def _declaration(text: str, place: Place) -> Iterator[Declaration]:
    packed, packed_inside, text = _packed(text)
    plain = _EXTENSION.sub(" ", text).strip()
    head = plain.partition("{")[0]
    is_typedef = head.startswith("typedef")
    if not plain or ("(" in head and not is_typedef) or head.startswith(("extern", "_Static")):
        return
    names = [f"{kind} {name}" for kind, name in _TAG.findall(plain)]
    if is_typedef:
        pointer = _FUNCTION_POINTER.search(plain)
        last = pointer or _LAST_NAME.search(_ATTRIBUTE.sub("", plain).rstrip())
        if last is None:
            raise DeclarationError(f"a typedef ({place})", f"it has no name: {_short(plain)}")
        names.append(last[1])
    elif re.fullmatch(r"(struct|union|enum)\s+\w+", plain):
        return
    elif "{" not in plain or not re.match(r"(struct|union|enum)\b", plain):
        raise DeclarationError(
            f"C text ({place})",
            f"neither a structure, a union, an enumeration nor a typedef: {_short(plain)}",
        )
    elif plain.rpartition("}")[2].strip().partition("__attribute__")[0]:
        raise DeclarationError(f"C text ({place})", f"a variable: {_short(plain)}")
    yield Declaration(plain, tuple(names), packed, place, packed_inside)


def _packed(text: str) -> tuple[bool, bool, str]:
    """Tell whether the whole is packed, and all inside of it, and return the text without that.

    The attribute stays where it is for one inside, and not for all.
    """
    first, last = text.find("{"), text.rfind("}")
    inside = text[first:last] if 0 <= first < last else ""
    around = text.replace(inside, "", 1) if inside else text
    packed = bool(_PACKED.search(around))
    marks, kept = len(_PACKED.findall(inside)), inside
    packed_inside = packed and 0 < len(_AGGREGATE.findall(inside)) <= marks
    if packed_inside:
        kept = _PACKED.sub(" ", inside)
    elif marks:
        kept = _PACKED.sub(" __attribute__((packed)) ", inside)
    if not inside:
        return packed, False, _PACKED.sub(" ", text)
    head, tail = _PACKED.sub(" ", text[:first]), _PACKED.sub(" ", text[last:])
    return packed, packed_inside, head + kept + tail


def enumerators(declaration: Declaration) -> Iterator[tuple[str, str]]:
    """The enumerators of all enumerations in a declaration, each with the text of its value."""
    for body in _ENUM.findall(declaration.text):
        value = "0"
        for item in _split(body):
            name, equals, given = (one.strip() for one in item.partition("="))
            if not name.isidentifier():
                place = declaration.place
                raise DeclarationError(f"an enumeration ({place})", f"{_short(name)} is no name")
            if equals:
                value = f"({given})"
            yield name, value
            value = f"({name} + 1)"


def _split(body: str) -> Iterator[str]:
    """Items between the commas that are in no brackets."""
    depth, item = 0, ""
    for letter in body:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            if item.strip():
                yield item
            item = ""
        else:
            item += letter
    if item.strip():
        yield item


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str) -> str:
    """Text as one line that fits into a message."""
    line = _one_line(text)
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
