# SPDX-License-Identifier: MIT
"""The parts of the benchmarks of private memory that need no lab."""

from __future__ import annotations

import io
import json
import shutil

import pytest

from benchmarks import baselines, conversions, conversions_pyvmm, in_lab
from benchmarks.conversion_cells import DATA_GPA, MARK, Cell, Kind, cells, cells_of_python, sizes
from benchmarks.conversions_in_place import comparisons as in_place_comparisons
from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError, Result, Table
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.rules.profile import IN_PLACE

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@needs_gcc
@pytest.mark.parametrize("kind", list(Kind))
def test_the_guest_begins_each_kind_with_a_mark(kind: Kind) -> None:
    code = baselines.assembled("conversions_guest").read_bytes()
    out_to_mark = bytes([0xE6, MARK])
    assert code[kind.entry : kind.entry + 2] == out_to_mark


def test_both_sides_have_the_data_at_the_same_place() -> None:
    source = (baselines.HERE / "conversions.c").read_text(encoding="utf-8")
    assert f"#define DATA_GPA (1UL << {DATA_GPA.bit_length() - 1})" in source
    assert f"#define MARK {MARK:#x}" in source


def test_rates_are_of_both_directions_where_there_are_two() -> None:
    assert Cell(Kind.SWEEPS, 4096, 100, sweeps=2).figures(4.0, 2.0) == {
        "nothing_in_use_to_private_per_s": 50,
        "nothing_in_use_to_shared_per_s": 100,
    }
    assert Cell(Kind.BACK_AND_FORTH, 4096, 100).figures(4.0, 0.0) == {"back_and_forth_per_s": 50}
    assert Cell(Kind.TO_SHARED, 4096, 100).figures(0.0, 4.0) == {"implicit_to_shared_per_s": 25}
    assert Cell(Kind.TO_PRIVATE, 4096, 8).figures(4.0, 0.0) == {"implicit_to_private_per_s": 2}


@pytest.mark.parametrize("size", list(sizes().values()))
def test_data_fit_below_the_hole_at_any_scale(size: int) -> None:
    for scale in (0.001, 0.2, 1.0):
        for cell in (*cells(size, scale), *cells_of_python(size, scale)):
            assert cell.count >= 1
            assert DATA_GPA + cell.data_size <= 3 << 30


def test_every_rate_of_pyvmm_has_a_target_at_every_size() -> None:
    gated = {(one.subject, one.figure) for one in conversions.comparisons() if one.target}
    for label, size in sizes().items():
        for cell in cells(size):
            for figure in cell.figures(1.0, 1.0):
                assert (f"pyvmm, {label}", figure) in gated


def test_every_rate_in_place_has_a_target() -> None:
    found = {(one.subject, one.figure, one.baseline) for one in in_place_comparisons()}
    assert {label for label, _, _ in found} == {"pyvmm, 4 KiB", "pyvmm, 2 MiB"}
    assert len(found) == 5 + 4
    assert all(one.target for one in in_place_comparisons())


@needs_gcc
def test_a_conversion_in_place_leaves_nothing_to_give_back() -> None:
    """On the model, where all leave for Python; what is private is that of the last sweep."""
    code = baselines.assembled("conversions_guest").read_bytes()
    cell = Cell(Kind.SWEEPS, 4096, 8, touch=4096)
    seconds = conversions_pyvmm.measured(
        code, cell, fast=True, in_place=True, host=lambda: ModelSystem(IN_PLACE)
    )
    assert seconds["to_python"] == 16
    assert min(seconds["to_private"], seconds["to_shared"]) > 0


def test_what_is_told_inside_is_taken_in_outside(capsys: pytest.CaptureFixture[str]) -> None:
    samples: dict[str, list[Sample]] = {"C": [{"a_per_s": 1.0}, {"a_per_s": 2.0}]}
    in_lab.tell(samples, [Table("more", (("row", "1", "remark"),))])
    answer = json.loads(capsys.readouterr().out)
    result = in_lab.take_in(Result("n", "t", [in_lab.told("C", "what")], {}, ()), answer)
    assert result.spread("C", "a_per_s").median == 1.5
    assert result.tables == [Table("more", (("row", "1", "remark"),))]


def test_a_subject_told_by_the_lab_is_not_measured_outside() -> None:
    with pytest.raises(CannotRunError, match="in the lab"):
        in_lab.told("C", "what").sample()


def test_steps_pass_through_and_the_rest_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    in_lab.say_step("C, 4 KiB", 3, 9)
    steps: list[tuple[str, int, int]] = []
    text = capsys.readouterr().err + "a complaint\n"
    said = in_lab.follow(io.StringIO(text), lambda *step: steps.append(step))
    assert steps == [("C, 4 KiB", 3, 9)]
    assert said == ["a complaint"]
