# SPDX-License-Identifier: MIT
"""The report as text, as JSON, and as a page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.compare.html_report import to_html
from pyvmm.compare.json_report import SCHEMA, to_json
from pyvmm.compare.observations import METRIC_TITLES, Metric
from pyvmm.compare.report import Report, subject_report
from pyvmm.compare.statistics import counted, number
from pyvmm.compare.terminal import bar, to_text
from tests.compare.samples import report, timed
from tests.compare.wide_report import wide_report

HOSTILE = "<script>alert('[red]&amp;')</script>"


class Page(HTMLParser):
    """What a page is made of: its tags, balanced; where anything could be loaded from."""

    EMPTY = frozenset({"meta", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_the_text_says_what_agrees_and_what_it_costs(rounds: int) -> None:
    text = to_text(report(rounds=rounds), is_terminal=False)
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "The behaviour agrees."
    assert ("time to the end, ms" in text) == bool(rounds)
    assert "left out: QEMU kvm: it <aborts>" in text
    assert "ram: 2 of 512 pages differ (rest)" in text
    assert max(map(len, text.splitlines())) <= 140


def test_the_text_shows_a_disagreement() -> None:
    text = to_text(report(other_console=b"bye\n"), is_terminal=False)
    assert text.splitlines()[-1] == "The behaviour does not agree."
    assert "DIFFERS" in text
    assert "-hello" in text
    assert "+bye" in text


def test_a_blank_at_the_end_of_a_line_is_shown() -> None:
    text = to_text(report(other_console=b"hello \n\nbye\t\n"), is_terminal=False)
    for line in ("-hello\n", "+hello\\x20\n", "+bye\\x09\n"):
        assert f"    {line}" in text
    assert text.count("\\x20") == 1


def test_a_guest_that_changes_from_run_to_run_does_not_agree() -> None:
    made = report()
    assert made.agrees
    first = made.subjects[0]
    odd = subject_report(first.inspection, [timed(first.subject, 1, 1.0, exit_code=9)])
    assert not replace(made, subjects=(odd, *made.subjects[1:])).agrees


def test_what_a_guest_says_is_no_markup() -> None:
    text = to_text(report(other_console=HOSTILE.encode(), name=HOSTILE), is_terminal=False)
    assert text.count(HOSTILE) >= 2


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_bars_are_as_long_as_their_value(value: float, most: float) -> None:
    value, most = sorted((value, most))
    length = len(bar(value, most))
    assert length <= 24
    if most:
        assert abs(length - 24 * value / most) <= 1.07


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1234"), (9.999, "10.00")]
)
def test_numbers_have_as_many_digits_as_mean_something(value: float, shown: str) -> None:
    assert number(value) == shown


def test_numbers_of_things() -> None:
    assert [counted(count, "line") for count in range(3)] == ["0 lines", "1 line", "2 lines"]


def test_json_has_everything() -> None:
    made = report(other_console=b"\xff\n")
    plain: Any = to_json(made)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["schema"] == SCHEMA
    assert plain["agrees"] is False
    ours, theirs = plain["subjects"]
    assert plain["reference"] == ours["name"] == "pyvmm kvm"
    assert theirs["console"] == "\\xff\n"
    assert theirs["accelerator"] == "tcg"
    assert theirs["kernel"] == {"source": None, "unknown": "there is no KVM", "counts": {}}
    assert ours["kernel"]["counts"] == {"exits": 12, "halt_exits": 1}
    assert set(ours["figures"]) == {metric.value for metric in Metric}
    assert [run["round"] for run in ours["runs"]] == [1, 2, 3]
    medians = {name: spread["median"] for name, spread in ours["figures"].items()}
    assert medians == pytest.approx(
        {
            "first_console_byte_ms": 200,
            "total_ms": 400,
            "user_cpu_ms": 400 / 3,
            "system_cpu_ms": 100,
            "peak_rss_mib": 40,
        }
    )
    ratios = {one["metric"]: one["median"] for one in plain["ratios"]}
    assert ratios["total_ms"] == 2.0
    (verdict,) = plain["verdicts"]
    assert verdict["ram"][0]["pages"] == {
        "same": 510, "different": 1, "only_reference": 0, "only_other": 1,
    }  # fmt: skip


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_the_page_is_whole_and_loads_nothing(rounds: int) -> None:
    text = to_html(report(rounds=rounds))
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert ("circle" in page.tags) == bool(rounds)
    assert "The behaviour agrees." in "".join(page.words)


@pytest.mark.parametrize("field", ["name", "append", "console"])
def test_the_page_has_what_a_guest_says_as_text(field: str) -> None:
    made = {
        "name": lambda: report(name=HOSTILE),
        "append": lambda: report(append=HOSTILE),
        "console": lambda: report(other_console=HOSTILE.encode() + b"\x1b\x00\n"),
    }[field]()
    page = Page(to_html(made))
    assert "script" not in page.tags
    assert HOSTILE in "".join(page.words)


def test_the_page_shows_the_beginning_of_a_long_console() -> None:
    made = report()
    first = made.subjects[0]
    console = b"x" * 100_000
    long = subject_report(replace(first.inspection, console=console), first.runs)
    words = "".join(Page(to_html(replace(made, subjects=(long, *made.subjects[1:])))).words)
    assert "the first 64 KiB of it" in words
    assert words.count("x" * 1024) == 64


def pictures_of(made: Report) -> list[ElementTree.Element]:
    return [
        ElementTree.fromstring(one)
        for one in re.findall(r"<svg.*?</svg>", to_html(made), re.DOTALL)
    ]


def test_pictures_are_well_formed_and_keep_inside() -> None:
    drawn = pictures_of(report())
    # One for each metric, the ratios, RAM.
    assert len(drawn) == len(Metric) + 2
    for picture in drawn:
        width, height = (float(part) for part in picture.attrib["viewBox"].split()[2:])
        for part in picture:
            for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if name in part.attrib:
                    # Text has a length as well: none that begins within the last 60.
                    room = 60 if part.tag == "text" and name == "x" else 0
                    assert 0 <= float(part.attrib[name]) <= limit - room
            if part.tag == "rect":
                assert float(part.attrib["x"]) + float(part.attrib["width"]) <= width
    dots = [part for part in drawn[1] if part.tag == "circle"]
    assert len(dots) == 6


@pytest.mark.parametrize(
    "made", [report(), report(rounds=1), wide_report()], ids=["plain", "one run", "wide"]
)
def test_a_figure_beside_dots_is_called_the_median(made: Report) -> None:
    metrics = [one for one in Metric if any(one in part.figures for part in made.subjects)]
    for metric, picture in zip(metrics, pictures_of(made), strict=False):
        unit = METRIC_TITLES[metric][1]
        width = float(picture.attrib["viewBox"].split()[2])
        texts = [part for part in picture if part.tag == "text"]
        told = [part for part in texts if (part.text or "").endswith(f" {unit}")]
        medians = [one.figures[metric].median for one in made.subjects if metric in one.figures]
        assert [part.text for part in told] == [f"median {number(one)} {unit}" for one in medians]
        dots = [part for part in picture if part.tag == "circle"]
        assert len(dots) == made.rounds * len(medians)
        for part in told:
            # A letter of the largest size, 18, is hardly as wide as 0.65 of that.
            assert float(part.attrib["x"]) + 0.65 * 18 * len(part.text or "") <= width + 0.1
    ratios = [part.text or "" for part in pictures_of(made)[len(metrics)] if part.tag == "text"]
    assert sum(text.startswith("median ") for text in ratios) == len(made.ratios)


INVENTORY = (
    b"memory 0000000000-000009fc00 usable\ncpuid 00000001.0 00000001 00000002 00000003 00000004\n"
)


def test_text_and_page_count_the_same_lines_of_a_console() -> None:
    said = b"one\n" + INVENTORY + b"two\n"
    made = report(console=said, other_console=said)
    text = to_text(made, is_terminal=False)
    own, *_ = (line for line in text.splitlines() if line.startswith(" pyvmm kvm   "))
    assert re.split(" {2,}", own.strip())[1:5] == ["2 lines", "exited 0", "1 line", "1 line"]
    narrow = to_text(made, is_terminal=False, width=90)
    assert "console 2 lines, end exited 0, memory-map 1 line, cpuid 1 line, steadiness" in narrow
    words = "".join(Page(to_html(made)).words)
    assert "equal2 lines, equal" in words
    assert "memory map and CPUID are counted there, not as the console's" in words
    plain = "".join(Page(to_html(report())).words)
    assert "equal1 line, equal" in plain
    assert "counted there" not in plain
