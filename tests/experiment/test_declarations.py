# SPDX-License-Identifier: MIT
"""C text declared at run time: values, layouts, ioctls, and what cannot be declared."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.experiment import DeclarationError, Declarations, Structure, address_of, declare, type_of
from pyvmm.hosts.kvm import ioctls as built_in

POSTED = """
/* As posted. */
struct kvm_memory_attributes2 {
        union { __u64 address; __u64 offset; };   // either
        __u64 size;
        __u64 attributes, flags;
        __u64 error_offset;
        __u64 reserved[RESERVED + 1];
};
#define RESERVED 10
#define KVM_SET_MEMORY_ATTRIBUTES2 \\
        _IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE    (1ULL << 3)
#define KVM_MEMORY_ATTRIBUTE_NEW        BIT_ULL(4)
enum kind { FIRST, SECOND = 1 << 4, THIRD };
"""


@pytest.fixture(scope="module")
def abi() -> Declarations:
    return declare(POSTED)


def test_an_ioctl_has_its_number_and_its_argument(abi: Declarations) -> None:
    ioctl = abi.KVM_SET_MEMORY_ATTRIBUTES2
    assert (ioctl.number, ioctl.argument) == (0xC080_AED2, "struct kvm_memory_attributes2")
    assert abi.ioctls() == ("KVM_SET_MEMORY_ATTRIBUTES2",)
    assert abi.size_of("struct kvm_memory_attributes2") == 128


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1ULL << 3)", 8),
        ("(1 << 31)", 1 << 31),
        ("~0ULL", (1 << 64) - 1),
        ("~0U", (1 << 32) - 1),
        ("-1", -1),
        ("0x10 | 0b1", 0x11),
        ("010", 8),
        ("'A'", 65),
        ("sizeof(struct two) * 2", 32),
        ("(__u8)0x1ff", 255),
        ("-7 / 2 + -7 % 2", -4),
        ("1 ? 2 : 3", 2),
        ("OTHER(3) + 1", 13),
        ("2 > 1 && !0", 1),
        ("_IO(KVMIO, 0x41)", built_in.CREATE_VCPU.number),
    ],
)
def test_a_macro_has_the_value_that_c_gives_it(text: str, value: int) -> None:
    abi = declare(
        "struct two { __u8 a; __u64 b; };\n#define OTHER(x) ((x) * 4)\n" + f"#define M {text}\n"
    )
    assert abi.value("M") == value


def test_enumerators_are_constants(abi: Declarations) -> None:
    assert (abi.FIRST, abi.SECOND, abi.THIRD) == (0, 16, 17)


def test_flags_are_spelled_by_their_names(abi: Declarations) -> None:
    prefix = "KVM_MEMORY_ATTRIBUTE_"
    assert abi.spell(prefix, 8) == abi.name_of(prefix, 8) == "KVM_MEMORY_ATTRIBUTE_PRIVATE"
    both = "KVM_MEMORY_ATTRIBUTE_PRIVATE|KVM_MEMORY_ATTRIBUTE_NEW"
    assert abi.spell(prefix, 0x18) == both
    assert abi.spell(prefix, 0x41) == "0x41"
    assert abi.spell(prefix, 0) == "0x0"


def test_fields_are_attributes(abi: Declarations) -> None:
    made = abi.new("struct kvm_memory_attributes2", offset=0x3000, size=4096)
    made.reserved[10] = 7
    assert (made.address, made.size, made.reserved[10], len(made)) == (0x3000, 4096, 7, 128)
    assert bytes(made)[:16] == (0x3000).to_bytes(8, "little") + (4096).to_bytes(8, "little")
    assert type_of(made) == "struct kvm_memory_attributes2"
    assert repr(made).startswith("<struct kvm_memory_attributes2 address=0x3000 size=0x1000 ")
    setattr(made, "flags", made)  # noqa: B010 - the address of an object, in a number
    assert made.flags == address_of(made)


def test_objects_are_spelled_in_a_line() -> None:
    abi = declare("""
        struct part { __u8 x; __s16 y; };
        struct all { __u64 a; struct part part; char name[8]; __u32 many[10]; struct part two[2]; };
    """)
    made = abi.new("struct all", a=10, name=b"abc")
    assert repr(made) == "<struct all a=0xa name=b'abc'>"
    made.part.y = -2
    made.many = [1, 0, 0x20]
    made.two[0].x = 3
    said = "<struct all a=0xa part={y=-2} name=b'abc' many=[1, 0, 0x20] two=[{x=3}]>"
    assert repr(made) == said
    made.many = [*range(10)]
    assert "many=[0, 1, 2, 3, 4, 5, 6, 7, 2 more]" in repr(made)
    assert repr(abi.new("__u64")) == "<unsigned long long 0>"
    assert repr(abi.new("__u16[3]")) == "<uint16_t[3] []>"


def test_a_view_is_the_memory_that_it_was_given(abi: Declarations) -> None:
    memory = bytearray(200)
    seen = abi.view("struct kvm_memory_attributes2", memory)
    seen.error_offset = 0x1122
    assert memory[32:34] == b"\x22\x11"
    with pytest.raises(DeclarationError, match="128 bytes, and the memory 127"):
        abi.view("struct kvm_memory_attributes2", bytearray(127))


def test_packed_nested_and_flexible_types_have_the_layout_of_c() -> None:
    abi = declare("""
        typedef struct { __u8 kind; __u32 value; } __attribute__((packed)) inner_t;
        struct outer { __u16 n; inner_t inner; struct { __u8 x[3]; } tail; __u64 entries[]; };
        struct aligned { __u32 a; __u32 b; __u64 c __attribute__((aligned(8))); };
    """)
    assert abi.size_of("inner_t") == 5
    assert abi.size_of("struct outer") == 16
    assert abi.size_of("struct aligned") == 16
    made = abi.new("struct outer", elements=3, n=3)
    made.inner.value = 0x01020304
    made.entries[2] = 9
    assert bytes(made)[2:7] == b"\0\x04\x03\x02\x01"
    assert len(made) == 16 + 24
    assert [*made.entries] == [0, 0, 9]


PACKED = "__attribute__((packed))"
PADDED = "struct { __u8 y; __u32 z; }"


@pytest.mark.parametrize(
    ("text", "size", "offset"),
    [
        (f"struct a {{ __u8 x; {PADDED} inner; __u64 w; }} {PACKED};", 17, 9),
        (f"struct a {{ __u8 x; {PADDED} inner[2]; __u64 w; }} __packed;", 25, 17),
        (f"struct {PACKED} a {{ __u8 x; __u64 w; }};", 9, 1),
        (f"struct a {{ __u8 x; {PADDED} {PACKED} inner; __u64 w; }} {PACKED};", 14, 6),
        (f"struct a {{ __u8 x; union {{ __u64 y; __u8 z; }}; __u64 w; }} {PACKED};", 17, 9),
        (
            f"struct a {{ __u8 x; union {{ {PADDED} p; struct {{ __u8 q[3]; }} r; }} u; __u64 w; }}"
            f" {PACKED};",
            17,
            9,
        ),
        (f"struct a {{ __u8 x; {PADDED} {PACKED} inner; __u64 w; }};", None, "packed.*understood"),
        (f"struct a {{ __u8 x; __u32 y {PACKED}; __u64 w; }};", None, "packed.*not understood"),
        (f"struct a {{ __u8 x; {PADDED}; __u64 w; }} {PACKED};", None, "inside of it.*padding"),
    ],
)
def test_packed_is_of_what_it_stands_at(text: str, size: int | None, offset: int | str) -> None:
    """Sizes and offsets as gcc has them; else a refusal."""
    abi = declare(text)
    if size is None:
        with pytest.raises(DeclarationError, match=str(offset)):
            abi.size_of("struct a")
        return
    assert abi.size_of("struct a") == size
    assert bytes(abi.new("struct a", w=0xFF)).index(b"\xff") == offset


def test_what_a_header_has_beside_declarations_is_passed_over() -> None:
    abi = declare("""
        #pragma once
        extern int function(int);
        static inline int doubled(int x) { return x * 2; }
        struct forward;
        struct s { struct forward *pointer; void *untyped; };
        typedef int (*callback)(int);
    """)
    assert abi.size_of("struct s") == 16
    assert abi.new("struct s").pointer == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strct b { int x; };", "line 1.*neither a structure"),
        ("struct b { int x; }", "without a semicolon"),
        ("\n\nstruct b { int x;", "line 3.*not closed"),
        ("} ;", "closes nothing"),
        ("struct b { int x; } c;", "a variable"),
        ("enum { 1 };", "no name"),
        ("#ifdef X\n#endif", "line 1.*#ifdef"),
        ("#define (", "no name"),
    ],
)
def test_text_that_cannot_be_taken_apart_is_refused_in_a_line(text: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said) as caught:
        declare(text)
    assert "\n" not in str(caught.value)


_EACH_TWICE_THE_NEXT = "#define X (M0)\n#define M40 1\n" + "".join(
    f"#define M{at} (M{at + 1} + M{at + 1})\n" for at in range(40)
)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("#define X _IOR(KVMIO, 1, struct missing)", "X", "struct missing"),
        ("struct b { foo x; };\n#define X _IOR(KVMIO, 1, struct b)", "X", "struct b.*line 1"),
        ("struct b { __u8 a[N]; };\n#define X _IOR(KVMIO, 1, struct b)", "X", "struct b"),
        ("#define X _IOR(KVMIO, 1)", "X", "takes 3 arguments, not 2"),
        ("#define X something", "X", "no constant"),
        ("#define X 1 / 0", "X", "no constant"),
        ("#define X Y\n#define Y X", "X", "no constant"),
        ("#define X", "X", "empty"),
        ("#define X (1 << 40)", "X", "32 bits shifted by 40; 1ULL"),
        ("#define X " + "1 + " * 20000 + "1", "X", "no constant"),
        (_EACH_TWICE_THE_NEXT, "X", "no end"),
        ("struct b { char a[1ULL << 62]; };\n#define X sizeof(struct b)", "X", "an array of"),
        ("struct b { char a[9223372036854775807]; };\n#define X sizeof(struct b)", "X", "an array"),
        ("struct b { char a[1 << 40]; };\n#define X sizeof(struct b)", "X", "shifted by 40"),
        ("enum e { };\n#define X sizeof(enum e)", "X", "no values"),
        ("struct b { int a['b']; };\n#define X sizeof(struct b)", "X", "character"),
        (
            "struct b { __u32 a __attribute__((aligned(16))); };\n#define X sizeof(struct b)",
            "X",
            "aligned",
        ),
    ],
    ids=range(17),
)
def test_a_name_without_a_meaning_is_refused_in_a_line(text: str, name: str, said: str) -> None:
    abi = declare(text)
    for _ in range(2):  # the second time as the first
        with pytest.raises(DeclarationError, match=said) as caught:
            getattr(abi, name)
        assert "\n" not in str(caught.value)


def test_a_nested_constant_is_its_value_or_refused_in_a_line() -> None:
    """Newer parsers of C descend at each parenthesis, older ones have a table, and no limit."""
    abi = declare("#define X " + "(" * 5000 + "1" + ")" * 5000)
    try:
        value = abi.value("X")
    except DeclarationError as refused:
        assert "no constant" in str(refused)
    else:
        assert value == 1


def test_a_size_that_disagrees_with_the_number_is_refused() -> None:
    abi = declare("struct b { __u64 a; };\n#define X 0xC010AE99\n#define Y 0xC008AE99")
    with pytest.raises(DeclarationError, match=r"has 8 bytes.*0xc010ae99 tells of 16"):
        abi.ioctl("X", argument="struct b")
    with pytest.raises(DeclarationError, match="tells of an argument of 16 bytes"):
        abi.ioctl("X")
    assert abi.ioctl("Y", argument="struct b").number == 0xC008_AE99
    assert abi.ioctl("Z", argument="struct b", number=0xAE9A).argument == "struct b"


def test_a_name_that_is_not_declared_is_told_with_one_that_is(abi: Declarations) -> None:
    with pytest.raises(DeclarationError, match="KVM_SET_MEMORY_ATTRIBUTES2"):
        abi.value("KVM_SET_MEMORY_ATTRIBUTE2")
    with pytest.raises(AttributeError):
        abi.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"sise": 1}, "no field 'sise'"), ({"size": -1}, "size"), ({"size": "x"}, "size")],
)
def test_a_field_that_does_not_fit_is_refused(
    abi: Declarations, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        abi.new("struct kvm_memory_attributes2", elements=None, **fields)


PIECES = st.sampled_from([
    "struct", "union", "enum", "typedef", "{", "}", "(", ")", "[", "]", ";", ",", "*", "a", "b",
    "__u64", "int", "void", "0", "3", "0x10", "1ULL", "<<", "+", "/", "~", "?", ":", "=", "'a'",
    '"s"', "sizeof", "__attribute__((packed))", "__attribute__((aligned(8)))", "_IO(",
    "_IOWR(KVMIO,", "#", "##", "\\\n", "\n#define", "X", "Y(x)", "\n#undef", "/*", "*/", "//", "\n",
    "1.5", "9" * 30,
])  # fmt: skip


@given(st.lists(PIECES, max_size=40), st.integers(0, len(POSTED)))
def test_no_text_leads_to_anything_but_an_error_of_one_line(pieces: list[str], at: int) -> None:
    try:
        abi = declare(f"{POSTED[:at]} {' '.join(pieces)} {POSTED[at:]}")
    except DeclarationError as error:
        assert "\n" not in str(error)
        return
    for name in abi.names():
        with suppress(DeclarationError):
            getattr(abi, name)
    for name in abi.types():
        with suppress(DeclarationError):
            assert len(abi.new(name)) == abi.size_of(name)


def test_names_that_begin_with_two_underscores_are_attributes_too() -> None:
    abi = declare("#define __KVM_HAVE_PIT 5\n#define __KVM_NEW _IO(KVMIO, 1)")
    assert abi.__KVM_HAVE_PIT == 5
    assert abi.__KVM_NEW.number == 0xAE01
    assert copy.copy(abi).value("__KVM_HAVE_PIT") == 5
    with pytest.raises(AttributeError, match="'__KVM_OTHER' is not declared"):
        _ = abi.__KVM_OTHER


class _Memory(bytearray):
    """Memory that tells when it goes."""


def test_what_a_field_has_the_address_of_lives_as_long() -> None:
    abi = declare("""
        struct to { __u64 value; };
        struct part { __u64 address; };
        struct from { __u64 address; struct part parts[2]; };
        """)
    gone: list[weakref.ref[_Memory]] = []

    def there() -> list[bool]:
        gc.collect()
        return [one() is not None for one in gone]

    def target() -> Structure:
        memory = _Memory(8)
        gone.append(weakref.ref(memory))
        return abi.view("struct to", memory)

    holder = abi.new("struct from", address=target())
    holder.parts[1].address = target()
    other = abi.new("struct from")
    other.parts[0] = holder.parts[1]
    assert there() == [True, True]
    holder.address = 0
    assert there() == [False, True]
    del holder
    assert there() == [False, True]
    other.parts[0] = abi.new("struct part")
    assert there() == [False, False]


def test_a_function_pointer_is_an_address() -> None:
    text = "typedef int (*fn)(int); struct h { fn f; int (*g)(void); __u8 after; };"
    abi = declare(text)
    made = abi.new("struct h", after=1)
    assert (made.f, made.g, repr(made)) == (0, 0, "<struct h after=1>")
    assert repr(abi.new("fn")) == "<int(*)(int) 0>"
    assert bytes(abi.view("fn", bytes(8))) == bytes(8)


def test_an_enumeration_whose_values_nothing_declares_has_no_size() -> None:
    abi = declare("struct a { enum nope x; }; enum e { A = 1 }; struct b { enum e x; };")
    assert abi.new("struct b", x=1).x == 1
    for name in ("struct a", "enum nope"):
        with pytest.raises(DeclarationError, match="nothing declares the values of enum nope"):
            abi.size_of(name)
