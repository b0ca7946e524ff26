# SPDX-License-Identifier: MIT
"""Declarations of a kernel's interface, taken from C text at run time; nothing is compiled."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from pyvmm.experiment.c_layout import inner_aggregates, members_apart, plain
from pyvmm.experiment.c_text import CText, Declaration, DeclarationError, Macro, enumerators, parse
from pyvmm.experiment.c_values import (
    IOCTL_MACROS,
    NoValueError,
    arguments_of,
    evaluate,
    expand,
)
from pyvmm.experiment.ioctls import Ioctl, direction_in, size_in
from pyvmm.experiment.structures import Structure
from pyvmm.hosts.kvm.declared_types import BASE_NAMES, DeclaredTypes, TypeRefusedError
from pyvmm.hosts.kvm.ioctls import Direction

_IOCTLS = frozenset({"_IO", "_IOR", "_IOW", "_IOWR"})
_IS_ENUM = re.compile(r"(typedef\s+)?enum\b")
_TYPE_NAME = re.compile(r"\b(?:(?:struct|union|enum)\s+)?[A-Za-z_]\w*")


class Declarations:
    """Names that C text declares: constants as numbers, ioctls, types. `declare` makes it.

    A constant or an ioctl is an attribute; `value`, `ioctl` and `new` have them by name. Each is
    worked out when it is asked for, so that a header may have parts that are not understood.
    """

    def __init__(self, text: CText) -> None:
        self._macros = {**IOCTL_MACROS, **text.macros}
        self._own = text.macros
        self._enumerators = text.enumerators
        self._pending: dict[str, Declaration] = {}
        self._refused: dict[str, str] = {}
        self._added: list[str] = []
        self._named: tuple[str, ...] | None = None
        self._types = DeclaredTypes()
        self._numbers = itertools.count()
        self._values: dict[str, int] = {}
        self._ioctls: dict[str, Ioctl] = {}
        for declaration in text.declarations:
            for name in declaration.names:
                if name not in BASE_NAMES:
                    self._pending[name] = declaration

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """The macros and enumerators that begin with `prefix`; none that takes arguments."""
        return tuple(
            name
            for name, macro in self._own.items()
            if name.startswith(prefix) and macro.parameters is None
        )

    def types(self) -> tuple[str, ...]:
        """The types declared, with their keywords: "struct kvm_run"."""
        return tuple(self._known_types())

    def value(self, name: str) -> int:
        """The value of a macro or an enumerator. Raises `DeclarationError`."""
        found = self._values.get(name)
        if found is None:
            macro = self._macros.get(name)
            if macro is None:
                raise self._unknown(name)
            found = self._values[name] = evaluate(macro, self._macros, self.size_of)
        return found

    def name_of(self, prefix: str, value: int) -> str:
        """The name that begins with `prefix` and has this value, an exit's; the number without."""
        for name in self.names(prefix):
            if self._value_or_none(name) == value:
                return name
        return str(value)

    def spell(self, prefix: str, value: int) -> str:
        """Names of the bits of `value`, those that begin with `prefix`; the rest as a number."""
        said = []
        for name in self.names(prefix):
            bit = self._value_or_none(name)
            if bit and bit & bit - 1 == 0 and value & bit:
                said.append(name)
                value &= ~bit
        return "|".join([*said, f"{value:#x}"] if value or not said else said)

    def ioctl(self, name: str, *, argument: str | None = None, number: int | None = None) -> Ioctl:
        """The ioctl `name`. Raises `DeclarationError`.

        `number` is its request number, where no macro says it; `argument` the C type that it takes
        a pointer to, where the macro does not say it: as for a number written out. That type's size
        is the one that the request number tells of, unless that tells of no argument.
        """
        if argument is None and number is None and name in self._ioctls:
            return self._ioctls[name]
        macro = self._macros.get(name)
        request = self.value(name) if number is None else number
        if argument is None:
            argument = "" if macro is None else self._argument_of(macro)
        if not 0 <= request < 1 << 32:
            raise DeclarationError(f"the ioctl {name}", f"{request:#x} is no request number")
        self._check_size(name, request, argument)
        if argument:
            self.size_of(argument)
        found = self._ioctls[name] = Ioctl(name, request, argument, self._types)
        return found

    def ioctls(self) -> tuple[str, ...]:
        """Names of the macros that are ioctls: `_IO`, `_IOR`, `_IOW` and `_IOWR` with arguments."""
        if self._named is None:
            named = self._own.items()
            found = (name for name, macro in named if arguments_of(macro, _IOCTLS) is not None)
            self._named = tuple(found)
        return self._named

    def size_of(self, type_name: str) -> int:
        """Size in bytes, without a flexible array's elements. Raises `DeclarationError`."""
        self._require(type_name)
        try:
            return self._types.size_of(type_name)
        except TypeRefusedError as error:
            raise self._no_type(type_name, str(error)) from None

    def new(self, type_name: str, /, *, elements: int | None = None, **fields: object) -> Structure:
        """A zeroed object with `fields` set; `elements`: those of the flexible array at its end.

        Of "__u64[4]" an array, of "__u64" a single number at index 0. Raises `DeclarationError`,
        and `UsageError` for a field that is not there or does not fit.
        """
        self.size_of(type_name)
        try:
            made = Structure(self._types, self._types.new(type_name, length=elements))
        except TypeRefusedError as error:
            raise self._no_type(type_name, str(error)) from None
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def view(self, type_name: str, memory: bytes | bytearray | memoryview) -> Structure:
        """An object of that type in `memory`; in a copy of it, where that is `bytes`.

        Raises `DeclarationError` for memory that is shorter than the type.
        """
        size, there = self.size_of(type_name), memoryview(memory).nbytes
        if there < size:
            raise self._no_type(type_name, f"it has {size} bytes, and the memory {there}")
        try:
            writable = bytearray(memory) if isinstance(memory, bytes) else memory
            return Structure(self._types, self._types.at(type_name, writable), writable)
        except TypeRefusedError as error:
            raise self._no_type(type_name, str(error)) from None

    def __getattr__(self, name: str) -> Any:
        # Copying asks before there are any.
        if name not in self.__dict__.get("_macros", ()):
            raise AttributeError(f"{name!r} is not declared")
        is_ioctl = arguments_of(self._macros[name], _IOCTLS) is not None
        found = self.__dict__[name] = self.ioctl(name) if is_ioctl else self.value(name)
        return found

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self.names()]

    def __repr__(self) -> str:
        counts = len(self.ioctls()), len(self._known_types()), len(self._own)
        return "<Declarations: {} ioctls, {} types, {} macros>".format(*counts)

    # -- types --

    def _known_types(self) -> dict[str, None]:
        return dict.fromkeys((*self._added, *self._refused, *self._pending))

    def _knows(self, name: str) -> bool:
        return name in self._pending or name in self._added

    def _require(self, text: str, own: tuple[str, ...] = ()) -> None:
        """Declare the types that `text` names, and those that they are made of.

        `own` are names that it makes itself.
        """
        for name in _TYPE_NAME.findall(text):
            plain = " ".join(name.split())
            if plain in self._refused:
                raise self._no_type(plain, self._refused[plain])
            if plain.startswith("enum ") and plain not in own and not self._knows(plain):
                # cffi would guess its size.
                raise self._no_type(plain, f"nothing declares the values of {plain}")
            declaration = self._pending.get(plain)
            if declaration is not None:
                self._declare(declaration)

    def _declare(self, declaration: Declaration) -> None:
        for name in declaration.names:
            self._pending.pop(name, None)
        what = declaration.names[0]
        try:
            text = self._plain(declaration, what)
            self._require(text, declaration.names)
            if declaration.packed and not declaration.packed_inside:
                text = self._with_members_apart(text, what)
            self._types.add(text, packed=declaration.packed)
        except (TypeRefusedError, DeclarationError) as error:
            cause = error.cause if isinstance(error, DeclarationError) else str(error)
            cause = f"{cause} ({declaration.place})"
            self._refused.update(dict.fromkeys(declaration.names, cause))
            raise self._no_type(what, cause) from None
        self._added.extend(declaration.names)

    def _with_members_apart(self, text: str, what: str) -> str:
        """Declare the types of members that are made inside of `text`, which is packed, before it.

        C packs the members of the whole, and not what is inside of them; cffi would.
        """
        text, apart = members_apart(text, self._numbers)
        for one in apart:
            self._types.add(one, packed=False)
        if any(map(self._types.changes_when_packed, inner_aggregates(text))):
            cause = "it is packed, and what is declared inside of it is not, and has padding"
            raise DeclarationError(what, cause, "give that a name, and declare it before")
        return text

    def _plain(self, declaration: Declaration, what: str) -> str:
        place = declaration.place
        if _IS_ENUM.match(declaration.text) and "{" in declaration.text:
            values = [f"{name} = {self.value(name)}" for name, _ in enumerators(declaration)]
            if not values:
                raise DeclarationError(what, "it has no values")
            return (
                f"{declaration.text.partition('{')[0]}{{ {', '.join(values)} }}"
                + (declaration.text.rpartition("}")[2])
            )
        # An enumerator stays what it is: only lengths of arrays are computed.
        text = expand(declaration.text, self._macros, place, self._enumerators)

        if "'" in text or '"' in text:
            raise DeclarationError(what, "it has a character or a string in it")

        def length(expression: str) -> int:
            return evaluate(Macro("length", None, expression, place), self._macros, self.size_of)

        return plain(text, what, place, length)

    # -- ioctls --

    def _argument_of(self, macro: Macro) -> str:
        found = arguments_of(macro, _IOCTLS)
        if found is None or found[0] == "_IO":
            return ""
        return expand(" ".join(found[1][2].split()), self._macros, macro.place, frozenset())

    def _check_size(self, name: str, request: int, argument: str) -> None:
        told = size_in(request)
        if not argument:
            if told:
                raise DeclarationError(
                    f"the ioctl {name}",
                    f"its number {request:#x} tells of an argument of {told} bytes, and none is "
                    "declared",
                    'name its type: ioctl(NAME, argument="struct ...")',
                )
            return
        size = self.size_of(argument)
        is_told = direction_in(request) is not Direction.NONE
        if is_told and told != size:
            raise DeclarationError(
                f"the ioctl {name}",
                f"{argument} has {size} bytes, and its number {request:#x} tells of {told}",
                "correct the structure, or the number",
            )

    # -- errors --

    def _value_or_none(self, name: str) -> int | None:
        try:
            return self.value(name)
        except NoValueError:
            return None

    def _unknown(self, name: str) -> DeclarationError:
        import difflib

        close = difflib.get_close_matches(name, self.names(), 1)
        remedy = f"do you mean {close[0]}?" if close else "declare it"
        return DeclarationError(f"a value for {name}", "no such name is declared", remedy)

    def _no_type(self, name: str, cause: str) -> DeclarationError:
        if "of unknown size" in cause:
            cause = "nothing declares what it is made of"
        return DeclarationError(name, cause)


def declare(text: str, *, tree: str | Path | None = None) -> Declarations:
    """Take declarations from C text: `#define`, structures, unions, enumerations, typedefs.

    The kernel's integers (__u64 and so on), `_IO` to `_IOWR`, `BIT` and `KVMIO` are known. With
    `tree`, the folder of a kernel's source or of installed headers, `#include` and conditionals are
    resolved first: ``declare("#include <linux/kvm.h>", tree="/usr/include")``. Raises
    `DeclarationError` for text that cannot be taken apart, `NoInputError` and `HostLacksError`
    where headers cannot be read; what a name means is found out when it is asked for.
    """
    if tree is not None:
        from pyvmm.experiment.headers import preprocessed

        text = preprocessed(text, Path(tree))
    return Declarations(parse(text))
