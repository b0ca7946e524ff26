# SPDX-License-Identifier: MIT
"""The nearest miss that a failure tells of."""

from __future__ import annotations

import re

import pytest

from pyvmm.testing.nearest import nearest
from pyvmm.testing.patterns import Pattern
from pyvmm.testing.transcript import Transcript


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("login: ", "'login: ' was said in other upper and lower case"),
        ("usable memry: 65151", "the line 'usable memory: 65151 KiB'"),
        (b"Password: of nobody here", "b'Password: ', which begins as it"),
        ("booted", "'booted' was said before the last match"),
        (re.compile("bo+ted"), "re.compile('bo+ted') matches what was said before the last match"),
        (re.compile("log.n"), "re.compile('log.n') matches but for upper and lower case"),
        (r"memory: \d+", r"text is taken literally; re.compile('memory: \\d+') matches"),
        ("Login: \nPassword", "it was said with lines that end in \\r\\n"),
        ("nothing like it", ""),
        ("(", ""),
        (re.compile("x+y"), ""),
        (re.compile("word: $"), ""),
    ],
    ids=repr,
)
def test_the_nearest_miss(pattern: Pattern, told: str) -> None:
    transcript = Transcript()
    transcript.append(b"booted\n")
    cursor = transcript.end
    transcript.append(b"usable memory: 65151 KiB\r\nLogin: \r\nPassword: ")
    assert nearest([pattern], transcript, cursor) == told


def test_the_first_pattern_that_has_one_is_told_of() -> None:
    transcript = Transcript()
    transcript.append(b"Login: ")
    told = nearest(["nothing like it", "login: "], transcript, 0)
    assert told == "'login: ' was said in other upper and lower case"


def test_output_of_any_kind_takes_no_long_time() -> None:
    # Counted by what is looked at: the end only, and few lines of it.
    transcript = Transcript()
    transcript.append(b"login: " + b"\xff\0" * (1 << 20) + b"\n" * (1 << 20))
    assert nearest(["login: x"], transcript, 0) == ""
