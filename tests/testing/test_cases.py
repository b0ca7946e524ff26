# SPDX-License-Identifier: MIT
"""Test cases that an image lists, without a boot; and images that lie."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import ImageError
from pyvmm.testing.images.cases import MAX_CASES, SECTION, GuestCase, list_cases

GUEST = Path(__file__).parents[2] / "guest"
ATTEMPT = "list the cases of x.img"
BASE = 0x10_0000


def image(name: str) -> bytes:
    return (GUEST / "build" / f"{name}.img").read_bytes()


def cases(content: bytes) -> tuple[GuestCase, ...]:
    found = list_cases(content, ATTEMPT)
    assert found is not None
    return found


@pytest.mark.parametrize("program", ["tests", "failing"])
def test_they_are_those_of_the_source_in_its_order(program: str) -> None:
    written = [
        (match[1], f"programs/{program}/{path.name}", text[: match.start()].count("\n") + 1)
        for path in sorted((GUEST / "programs" / program).glob("*.c"))
        for text in [path.read_text()]
        for match in re.finditer(r"^TEST_CASE\((\w+)\)", text, re.MULTILINE)
    ]
    found = cases(image(program))
    assert [(each.name, each.file, each.line) for each in found] == written
    assert [each.number for each in found] == list(range(len(found)))
    assert all(each.option == each.name for each in found)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"KTAP version 1\n", b"\x7fELF" + bytes(200)])
def test_others_list_none(content: bytes) -> None:
    assert list_cases(content, ATTEMPT) is None


def test_a_guest_without_cases_lists_none() -> None:
    assert list_cases(image("hello"), ATTEMPT) is None


def made(names: list[bytes], *, extra: bytes = b"", shift: int = 0) -> bytes:
    """An ELF64 file with a segment that holds entries and texts, and its sections."""
    texts, entries = b"", b""
    size = 32 * len(names)
    for number, name in enumerate(names):
        entries += struct.pack("<QQQII", BASE + size + len(texts) + shift, BASE, 0, number, 0)
        texts += name + b"\0"
    load = entries + extra + texts
    names_table = b"\0" + SECTION.encode() + b"\0.shstrtab\0"
    start = 64 + 56
    at_names = start + len(load)
    at_headers = at_names + len(names_table)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1",
        2,
        62,
        1,
        BASE,
        64,
        at_headers,
        0,
        64,
        56,
        1,
        64,
        3,
        2,
    )
    program = struct.pack("<IIQQQQQQ", 1, 5, start, BASE, BASE, len(load), len(load), 4096)
    sections = bytes(64) + struct.pack(
        "<IIQQQQIIQQ", 1, 1, 2, BASE, start, len(entries + extra), 0, 0, 8, 0
    )
    sections += struct.pack("<IIQQQQIIQQ", 15, 3, 0, 0, at_names, len(names_table), 0, 0, 1, 0)
    return header + program + load + names_table + sections


def test_equal_names_are_numbered_and_chosen_by_number() -> None:
    found = cases(made([b"a", b"b", b"a", b"a#2", b"a"]))
    assert [(each.name, each.option) for each in found] == [
        ("a", "a"), ("b", "b"), ("a#3", "2"), ("a#2", "a#2"), ("a#4", "4"),
    ]  # fmt: skip


def test_a_name_with_levels_in_it_is_one_level_and_chosen_by_number() -> None:
    found = cases(made([b"a.b", b"a::b"]))
    assert [(each.name, each.option, each.own_name) for each in found] == [
        ("a.b", "a.b", "a.b"), ("a.b#2", "1", "a::b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (made([b"a"], extra=b"1234"), "no multiple of 32"),
        (made([b"a"], shift=1000), "where the image has nothing"),
        (made([b"a b"]), "is no word: 'a b'"),
        (made([b""]), "is no word: ''"),
        (made([b"a\x1b"]), "is no word"),
        (made([b"a\xff\xfe"]), None),
        (made([b"a" * 300]), "has no end within 256 bytes"),
        (made([b"a"] * (MAX_CASES + 1)), f"more than {MAX_CASES} test cases"),
        (made([b"a"])[:-10], "beyond the end of the file"),
    ],
)
def test_damage_is_said_in_one_line(content: bytes, cause: str | None) -> None:
    if cause is None:
        assert cases(content)[0].name == "a\\xff\\xfe"
        return
    with pytest.raises(ImageError) as caught:
        list_cases(content, ATTEMPT)
    text = str(caught.value)
    assert text.startswith(f"cannot {ATTEMPT}: ")
    assert cause in text
    assert text.isprintable()


def test_32_bit_and_relocatable_files() -> None:
    thin = bytearray(made([b"a"]))
    thin[4] = 1
    assert list_cases(bytes(thin), ATTEMPT) is None
    # Entries of a file that is relocated when it runs hold no addresses yet.
    with pytest.raises(ImageError, match="link it at a fixed address"):
        list_cases(made([b"a"], shift=-BASE - 32), ATTEMPT)


def sound(content: bytes) -> None:
    """Cases, none, or one line."""
    try:
        found = list_cases(content, ATTEMPT)
    except ImageError as error:
        assert str(error).isprintable()
    else:
        assert found is None or len({each.name for each in found}) == len(found)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes(content: bytes, at: int) -> None:
    whole = made([b"a", b"b"])
    sound(content)
    sound(b"\x7fELF" + content)
    sound(whole[:at] + content + whole[at + len(content) :])


def test_bits_that_flip() -> None:
    chance = random.Random(20)
    whole = made([b"a", b"b", b"c"])
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            broken[chance.randrange(len(broken))] = chance.choice(
                (0, 1, 0xFF, chance.randrange(256))
            )
        sound(bytes(broken)[: chance.choice((len(broken), chance.randrange(len(broken))))])
