# SPDX-License-Identifier: MIT
"""Values of C macros: expanded, then computed as C computes constants.

Sizes of types are asked of whoever knows layouts. `IOCTL_MACROS` are those of
``include/uapi/asm-generic/ioctl.h`` in effect: direction in bits 31..30, size in 29..16, type in
15..8, number in 7..0 (ioctl(2), "Documentation/userspace-api/ioctl/ioctl-decoding.rst").
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyvmm.experiment.c_text import DeclarationError, Macro, Place, parse

IOCTL_MACROS: Mapping[str, Macro] = parse(
    """
#define _IOC(dir, type, nr, size) \\
    (((dir) << 30U) | ((size) << 16U) | ((type) << 8U) | ((nr) << 0U))
#define _IOC_NONE 0U
#define _IOC_WRITE 1U
#define _IOC_READ 2U
#define _IO(type, nr) _IOC(_IOC_NONE, (type), (nr), 0U)
#define _IOR(type, nr, argument) _IOC(_IOC_READ, (type), (nr), (unsigned int)sizeof(argument))
#define _IOW(type, nr, argument) _IOC(_IOC_WRITE, (type), (nr), (unsigned int)sizeof(argument))
#define _IOWR(type, nr, argument) \\
    _IOC(_IOC_READ | _IOC_WRITE, (type), (nr), (unsigned int)sizeof(argument))
#define KVMIO 0xAE
#define _BITUL(x) (1UL << (x))
#define _BITULL(x) (1ULL << (x))
#define BIT(x) (1UL << (x))
#define BIT_ULL(x) (1ULL << (x))
"""
).macros

_TOKEN = re.compile(r"\w+|##|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\s+|.", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_DEEPEST = 64
_LONGEST = 100_000
_BASIC = frozenset({
    "void", "char", "short", "int", "long", "signed", "unsigned", "float", "double", "struct",
    "union", "enum", "const", "sizeof",
})  # fmt: skip
SizeOf = Callable[[str], int]


class NoValueError(DeclarationError):
    """A macro that is no constant: a value cannot be told of it."""


def expand(text: str, macros: Mapping[str, Macro], place: Place, hidden: frozenset[str]) -> str:
    """Replace macros in `text`, those in `hidden` excepted. Raises `DeclarationError`."""
    if len(hidden) > _DEEPEST or len(text) > _LONGEST:
        raise DeclarationError(f"a macro ({place})", "its expansion has no end")
    tokens = _TOKEN.findall(text)
    out: list[str] = []
    at = length = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        length += len(out[-1]) if out else 0
        if length > _LONGEST:  # Each macro may have the next one twice.
            raise DeclarationError(f"a macro ({place})", "its expansion has no end")
        macro = None if token in hidden else macros.get(token)
        if macro is None:
            out.append(token)
        elif macro.parameters is None:
            out.append(expand(macro.text, macros, place, hidden | {token}))
        else:
            given = _arguments(tokens, at)
            if given is None:
                out.append(token)
                continue
            arguments, at = given
            if len(arguments) != len(macro.parameters):
                raise DeclarationError(
                    f"a use of {token} ({place})",
                    f"it takes {len(macro.parameters)} arguments, not {len(arguments)}",
                )
            full = [expand(one, macros, place, hidden) for one in arguments]
            body = _substituted(macro, arguments, full)
            out.append(expand(body, macros, place, hidden | {token}))
    return "".join(out)


def _substituted(macro: Macro, given: list[str], full: list[str]) -> str:
    """The body with arguments for parameters: as they were given beside ``##``, else in `full`."""
    parameters = macro.parameters or ()
    pieces = [one for one in _TOKEN.findall(macro.text) if not one.isspace()]
    if "##" not in pieces:
        by_name = dict(zip(parameters, full, strict=True))
        return "".join(by_name.get(one, one) for one in _TOKEN.findall(macro.text))
    out = ""
    for at, piece in enumerate(pieces):
        is_pasted = "##" in pieces[max(at - 1, 0) : at + 2 : 2] if piece != "##" else True
        values = given if is_pasted else full
        value = values[parameters.index(piece)] if piece in parameters else piece
        joins = at == 0 or piece == "##" or pieces[at - 1] == "##"
        out += "" if piece == "##" else value if joins else f" {value}"
    return out


def _arguments(tokens: list[str], at: int) -> tuple[list[str], int] | None:
    """The arguments in the brackets at `at`, and where they end; None: there are no brackets."""
    while at < len(tokens) and tokens[at].isspace():
        at += 1
    if at == len(tokens) or tokens[at] != "(":
        return None
    depth, found = 1, [""]
    for end in range(at + 1, len(tokens)):
        token = tokens[end]
        depth += (token == "(") - (token == ")")
        if depth == 0:
            return ([] if found == [""] else [one.strip() for one in found]), end + 1
        if token == "," and depth == 1:
            found.append("")
        else:
            found[-1] += token
    return None


def arguments_of(macro: Macro, names: frozenset[str]) -> tuple[str, list[str]] | None:
    """The call that a macro's whole text is, of one of `names`: that name, and its arguments."""
    tokens = [one for one in _TOKEN.findall(macro.text) if not one.isspace()]
    if not tokens or tokens[0] not in names:
        return None
    found = _arguments(_TOKEN.findall(macro.text.strip()), 1)
    return None if found is None else (tokens[0], found[0])


class CInt(NamedTuple):
    """An integer of C: its value, its width in bits, and its signedness."""

    value: int
    bits: int = 32
    signed: bool = True

    def fitted(self) -> CInt:
        """The value as so many bits hold it."""
        low = self.value & (1 << self.bits) - 1
        if self.signed and low >> self.bits - 1:
            low -= 1 << self.bits
        return CInt(low, self.bits, self.signed)


def evaluate(macro: Macro, macros: Mapping[str, Macro], size_of: SizeOf) -> int:
    """The value of a macro. Raises `NoValueError` where it has none, `DeclarationError`."""
    text = expand(macro.text, macros, macro.place, frozenset({macro.name}))
    if not text.strip():
        raise NoValueError(f"a value for {macro.name} ({macro.place})", "it is empty")
    from pycparser import c_ast, c_parser

    names = {one for one in _NAME.findall(text) if one not in _BASIC}
    prelude = "".join(f"typedef long long {one};" for one in sorted(names))
    try:
        tree = c_parser.CParser().parse(f"{prelude}long long value_ = ({text});")
        return _Computing(size_of, c_ast).value(tree.ext[-1].init).value
    except (
        c_parser.ParseError, _NotConstantError, ZeroDivisionError, AssertionError, RecursionError,
    ) as error:  # fmt: skip
        said = str(error) if isinstance(error, _NotConstantError) else ""
        cause = said or "no constant that can be computed"
        cause = f"{' '.join(macro.text.split())[:60]!r} is {cause}"
        raise NoValueError(f"a value for {macro.name} ({macro.place})", cause) from error


class _NotConstantError(Exception):
    pass


def _divide(left: int, right: int) -> int:
    return abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": lambda left, right: left - _divide(left, right) * right,
    "|": operator.or_,
    "&": operator.and_,
    "^": operator.xor,
}
_SIGNS: dict[str, Callable[[int], int]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
}
_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "&&": lambda left, right: bool(left and right),
    "||": lambda left, right: bool(left or right),
}


class _Computing:
    """Constants of one expression; `nodes` is the module of the parser's classes."""

    def __init__(self, size_of: SizeOf, nodes: Any) -> None:
        self._size_of = size_of
        self._nodes = nodes

    def value(self, node: Any) -> CInt:
        nodes = self._nodes
        if isinstance(node, nodes.Constant):
            return _constant(node.type, node.value)
        if isinstance(node, nodes.UnaryOp):
            return self._unary(node)
        if isinstance(node, nodes.BinaryOp):
            return self._binary(node)
        if isinstance(node, nodes.TernaryOp):
            return self.value(node.iftrue if self.value(node.cond).value else node.iffalse)
        if isinstance(node, nodes.Cast):
            name = self._type_name(node.to_type)
            inner = self.value(node.expr)
            signed = not re.match(r"unsigned|__u|u\d|uint|__[lb]e", name)
            return CInt(inner.value, 8 * self._size_of(name), signed).fitted()
        raise _NotConstantError

    def _unary(self, node: Any) -> CInt:
        if node.op == "sizeof":
            return CInt(self._size_of(self._type_name(node.expr)), 64, signed=False)
        inner = self.value(node.expr)
        if node.op == "!":
            return CInt(int(not inner.value))
        sign = _SIGNS.get(node.op)
        if sign is None:
            raise _NotConstantError
        return CInt(sign(inner.value), inner.bits, inner.signed).fitted()

    def _binary(self, node: Any) -> CInt:
        left, right = self.value(node.left), self.value(node.right)
        if node.op in _COMPARED:
            return CInt(int(_COMPARED[node.op](left.value, right.value)))
        if node.op in {"<<", ">>"}:
            if not 0 <= right.value < left.bits:  # C leaves it undefined (C11 6.5.7).
                raise _NotConstantError(
                    f"{left.bits} bits shifted by {right.value}; 1ULL and BIT_ULL have 64"
                )
            shift = operator.lshift if node.op == "<<" else operator.rshift
            # A flag in the highest bit, (1 << 31), is meant as a flag.
            signed = left.signed and not (left.value > 0 and node.op == "<<")
            shifted = CInt(shift(left.value, right.value), left.bits, signed).fitted()
            return (
                shifted if shifted.value >> left.bits - 1 else shifted._replace(signed=left.signed)
            )
        bits = max(left.bits, right.bits)
        signed = all(one.signed for one in (left, right) if one.bits == bits)
        a, b = (CInt(one.value, bits, signed).fitted().value for one in (left, right))
        return CInt(_BINARY[node.op](a, b), bits, signed).fitted()

    def _type_name(self, node: Any) -> str:
        from pycparser import c_generator

        if not isinstance(node, self._nodes.Typename):
            raise _NotConstantError
        name: str = c_generator.CGenerator().visit(node)
        return name


def _constant(kind: str, text: str) -> CInt:
    """An integer constant, or a character; its type is the first that holds it (C11 6.4.4.1)."""
    if kind == "char":
        return CInt(ord(text[1:-1].encode().decode("unicode_escape")))
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)([uUlL]*)", text)
    if match is None:
        raise _NotConstantError
    digits, suffix = match[1], match[2].lower()
    is_octal = len(digits) > 1 and digits.isdecimal() and digits[0] == "0"
    value = int(digits, 8) if is_octal else int(digits, 0)
    can_be_unsigned = "u" in suffix or not digits.isdecimal() or is_octal
    widths = (64,) if "l" in suffix else (32, 64)
    for bits in widths:
        if "u" not in suffix and value < 1 << bits - 1:
            return CInt(value, bits)
        if can_be_unsigned and value < 1 << bits:
            return CInt(value, bits, signed=False)
    if value < 1 << 64:
        return CInt(value, 64, signed=False)
    raise _NotConstantError
