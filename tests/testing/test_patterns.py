# SPDX-License-Identifier: MIT
"""Searching for patterns in output as it comes, whatever pieces it comes in."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.testing.patterns import REACH, Match, Pattern, Search, as_patterns
from pyvmm.testing.transcript import Transcript, printable


def searched(
    pieces: list[bytes],
    wanted: list[Pattern],
    forbidden: tuple[Pattern, ...] = (),
    cursor: int = 0,
    *,
    ends: bool = True,
) -> Match | None:
    """The match of a search that looks after each piece."""
    transcript = Transcript()
    search = Search(wanted, forbidden, cursor)
    for piece in pieces:
        transcript.append(piece)
        if hit := search.look(transcript):
            return hit.match
    transcript.has_ended = ends
    hit = search.look(transcript, thorough=True)
    return None if hit is None else hit.match


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


SMALL = st.lists(st.sampled_from([b"a", b"b", b"\n", "é".encode()]), max_size=40).map(b"".join)
PLACES = st.lists(st.integers(0, 1000), max_size=20)
LITERALS = st.lists(st.sampled_from("ab\né"), min_size=1, max_size=4).map("".join)


@given(SMALL, PLACES, st.lists(LITERALS, min_size=1, max_size=3), st.integers(0, 5))
def test_of_texts_the_first_that_is_complete_is_found_however_it_comes(
    data: bytes, places: list[int], texts: list[str], cursor: int
) -> None:
    cursor = min(cursor, len(data))
    found = searched(cut(data, places), list(texts), cursor=cursor)
    complete = [
        (place + len(text.encode()), index)
        for index, text in enumerate(texts)
        if (place := data.find(text.encode(), cursor)) >= 0
    ]
    if not complete:
        assert found is None
    else:
        assert found is not None
        assert (found.end, found.index) == min(complete)
        assert found.data == texts[found.index].encode()
        assert found.before == data[cursor : found.start]


@pytest.mark.parametrize("expression", [r"a+b", r"(a)(b)?\n", r"^b", r"(?m)^a.*$", r"é\w", r"a\b"])
@given(SMALL, PLACES)
def test_a_regular_expression_is_found_as_in_all_of_it_at_once(
    expression: str, data: bytes, places: list[int]
) -> None:
    whole = re.search(expression, data.decode())
    found = searched(cut(data, places), [re.compile(expression)])
    assert (found is None) == (whole is None)
    if whole is not None and found is not None:
        assert found[0] == whole[0]
        assert found.groups == whole.groups()
        assert found.before.decode() == whole.string[: whole.start()]


def test_text_and_bytes_are_literal() -> None:
    assert searched([b"[ATSS] a.c"], ["[ATSS]"]) is not None
    assert searched([b"abc"], ["a.c"]) is None
    assert searched([b"abc"], [b"a.c"]) is None


def test_groups_are_of_the_patterns_own_kind() -> None:
    text = searched([b"pid 12, caf\xc3\xa9\n"], [re.compile(r"pid (?P<pid>\d+), (\w+)\n")])
    assert text is not None
    assert (text["pid"], text[2], text.text) == ("12", "café", "pid 12, café\n")
    for missing in (-1, 3, "user"):
        with pytest.raises(IndexError, match="has no group"):
            text[missing]
    data = searched([b"pid 12, \xff\n"], [re.compile(rb"pid (\d+), (.)\n")])
    assert data is not None
    assert (data[1], data[2], data[0]) == (b"12", b"\xff", b"pid 12, \xff\n")


@pytest.mark.parametrize("number", [re.compile(r"pid (\d+)"), re.compile(rb"pid (\d+)")])
def test_what_the_next_letter_could_change_does_not_count_yet(
    number: re.Pattern[str] | re.Pattern[bytes],
) -> None:
    found = searched([b"pid 1", b"2", b"3\n"], [number])
    assert found is not None and found[1] in ("123", b"123")
    assert searched([b"pid 123"], [number], ends=False) is None
    found = searched([b"pid 123"], [number])
    assert found is not None and found[1] in ("123", b"123")
    # Nothing that may follow changes these, so that a prompt is found at once.
    assert searched([b"login: "], [re.compile("login: ")], ends=False) is not None
    assert searched([b"ash# "], [re.compile(rb"\w+# ")], ends=False) is not None
    assert searched([b"login: "], [re.compile("login: $")], ends=False) is None


def test_an_open_end_is_told_of() -> None:
    transcript = Transcript()
    search = Search([prompt := re.compile(rb"\$ $")], (), 0)
    transcript.append(b"sh$ ")
    assert search.look(transcript) is None
    assert list(search.open_ends()) == [prompt]
    transcript.append(b"x")
    assert search.look(transcript) is None
    assert list(search.open_ends()) == []


def test_what_is_forbidden_counts_where_it_comes_first() -> None:
    transcript = Transcript()
    transcript.append(b"Oops: ready\n")
    hit = Search(["ready"], ["Oops"], 0).look(transcript)
    assert hit is not None and hit.is_forbidden
    hit = Search(["Oops"], ["ready"], 0).look(transcript)
    assert hit is not None and not hit.is_forbidden
    hit = Search(["ready"], ["y"], 0).look(transcript)
    assert hit is not None and hit.is_forbidden


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_long_match_is_found_though_it_began_long_ago(kind: type) -> None:
    expression = "BEGIN(.*)END\n"
    pattern: Pattern = re.compile(expression, re.DOTALL)
    if kind is bytes:
        pattern = re.compile(expression.encode(), re.DOTALL)
    lines = [b"BEGIN\n", *([b"line\n"] * (3 * REACH)), b"END\n"]
    transcript = Transcript()
    search = Search([pattern], (), 0)
    for line in lines:
        transcript.append(line)
        hit = search.look(transcript)
    assert hit is None
    assert search.is_behind
    hit = search.look(transcript, thorough=True)
    assert hit is not None and hit.match.data == b"".join(lines)


LONG = "x" * (3 * REACH)


@pytest.mark.parametrize("pattern", [re.compile("need?le\n"), re.compile(rb"need?le\n")])
def test_a_match_may_begin_in_what_was_looked_at(
    pattern: re.Pattern[str] | re.Pattern[bytes],
) -> None:
    transcript = Transcript()
    search = Search([pattern], (), 0)
    for piece in (LONG.encode(), b"nee", b"dle", b"\n"):
        assert search.look(transcript) is None
        transcript.append(piece)
    hit = search.look(transcript)
    assert hit is not None and hit.match.data == b"needle\n"


@pytest.mark.parametrize("pattern", [re.compile("y+"), re.compile(b"y+")])
def test_a_match_that_grows_keeps_its_beginning(
    pattern: re.Pattern[str] | re.Pattern[bytes],
) -> None:
    transcript = Transcript()
    search = Search([pattern], (), 0)
    for piece in (LONG.encode(), b"y", LONG[: REACH * 2].replace("x", "y").encode(), b"y", b"x"):
        assert search.look(transcript) is None
        transcript.append(piece)
    hit = search.look(transcript)
    assert hit is not None
    assert (hit.match.start, hit.match.end) == (len(LONG), len(LONG) + 2 * REACH + 2)


@pytest.mark.parametrize("pattern", ["é", "é".encode(), re.compile("é"), re.compile("é".encode())])
def test_a_letter_that_comes_in_two_pieces(pattern: Pattern) -> None:
    found = searched([b"a\xc3", b"\xa9b"], [pattern])
    assert found is not None
    assert (found.start, found.end, found.before) == (1, 3, b"a")


def test_bytes_that_are_no_text_are_kept() -> None:
    found = searched([b"\xff\xfe\x00A\xc3"], [re.compile("A.")])
    assert found is not None
    assert (found.start, found.data, found.before) == (3, b"A\xc3", b"\xff\xfe\x00")
    assert found.text.encode("utf-8", "surrogateescape") == b"A\xc3"


@pytest.mark.parametrize("pattern", ["", b"", re.compile("x*"), re.compile(b"$"), 3, ["a", None]])
def test_patterns_that_are_none(pattern: object) -> None:
    with pytest.raises(UsageError, match="expect"):
        as_patterns(pattern)  # type: ignore[arg-type]


def test_searching_takes_time_in_proportion_to_what_is_said() -> None:
    # Counted, not measured: letters that a regular expression is let see, for each look.
    seen: list[int] = []

    class Watched(Transcript):
        def find(self, wanted: bytes, offset: int) -> int:
            seen.append(self.end - max(offset, 0))
            return super().find(wanted, offset)

    transcript = Watched()
    search = Search([b"needle"], (), 0)
    for _ in range(1000):
        transcript.append(b"x" * 100)
        assert search.look(transcript) is None
    assert max(seen) <= 105


def test_the_transcript_keeps_its_beginning_and_its_end() -> None:
    transcript = Transcript(kept=1000, kept_head=10)
    said = b"".join(b"%06d\n" % number for number in range(1000))
    for start in range(0, len(said), 70):
        transcript.append(said[start : start + 70])
        assert len(transcript.recent) <= 2070
    assert transcript.end == len(said)
    kept = transcript.all()
    assert kept.startswith(b"000000\n000\n[")
    assert kept.endswith(said[-1000:])
    dropped = int(kept.split(b"[")[1].split()[0])
    assert dropped + 10 + len(kept.split(b"kept]\n")[1]) == len(said)


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_search_goes_on_where_the_beginning_is_kept_no_more(kind: str) -> None:
    transcript = Transcript(kept=20_000)
    expression = "number (9999)!"
    pattern: Pattern = re.compile(expression if kind == "text" else expression.encode())
    search = Search([pattern], (), 0)
    for number in range(9_999):
        transcript.append(b"number %d!\n" % number)
        assert search.look(transcript) is None
    transcript.append(b"number 9999!\n")
    hit = search.look(transcript)
    assert hit is not None
    assert hit.match.end == transcript.end - 1
    assert hit.match.data == b"number 9999!"
    assert hit.match.before.endswith(b"number 9998!\n")


def test_printable() -> None:
    assert printable(b"a\r\nb\x1b[2J\xff\tc") == "a\nb\\x1b[2J\\xff\tc"
