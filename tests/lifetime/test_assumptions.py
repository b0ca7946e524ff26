# SPDX-License-Identifier: MIT
"""Assumptions: what a run without one shows is read off the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.lifetime import assumptions as module
from pyvmm.lifetime.assumptions import TWO_SECRETS, assumptions, grown
from pyvmm.lifetime.claims import no_clean_up
from pyvmm.lifetime.evidence import Verdict
from pyvmm.lifetime.universe import SMALL

from .gathered import LITTLE


@pytest.mark.slow
def test_an_mmu_that_finds_nothing_to_zap_frees_a_claim_of_its_condition() -> None:
    assert no_clean_up(LITTLE).verdict is Verdict.HOLDS_IF
    assert no_clean_up(LITTLE, torn_is_harm=False).verdict is Verdict.HOLDS


@pytest.mark.slow
def test_each_assumption_has_its_reason_its_source_and_where_it_fails() -> None:
    found = assumptions(LITTLE)
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each.sentence.endswith(".")
        for text in (each.reason, each.source, each.fails):
            assert text
            assert not text.endswith(".")
    assert found[0].shown == "no-clean-up-in-release: holds only if with it, holds without"
    (machine,) = (each for each in found if each.name == "one-machine")
    assert machine.shown.endswith("helper-dies-first fails in 3 steps")
    assert [each.name for each in found if "the same properties fail in all" in each.shown] == [
        "two-of-each", "one-secret",
    ]  # fmt: skip


def test_a_universe_that_finds_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_written = replace(SMALL, name="no secret", secrets=0)
    monkeypatch.setattr(module, "TWO_SECRETS", nothing_written)
    shown = module._secrets().shown
    assert "differs for memslot-pins-file in no secret" in shown
    assert "file-pins-vm in" not in shown


def test_each_thing_grows_by_one() -> None:
    sizes = ("vms", "files", "slots", "pages", "processes", "handles")
    for universe in grown():
        more = [getattr(universe, name) - getattr(SMALL, name) for name in sizes]
        assert sorted(more) == [0, 0, 0, 0, 0, 1]
    assert len(set(grown())) == len(sizes)
    assert TWO_SECRETS.secrets == SMALL.secrets + 1
