# SPDX-License-Identifier: MIT
"""Reports of tests that have failed: a section that explains each of their guests."""

from __future__ import annotations

import pytest

from pyvmm.testing.explain import explain
from pyvmm.testing.witness import Remains, Witness

GUESTS = "pyvmm_guests"
"""Attribute of a failed report: a list of `Explanation.to_json`."""
_WITNESS = pytest.StashKey[Witness]()


def witness_of(item: pytest.Item) -> Witness:
    """Return the witness of a test's guests; it has one from then on."""
    return item.stash.setdefault(_WITNESS, Witness())


def guests_of(item: pytest.Item) -> tuple[Remains, ...]:
    """Guests that a test has booted, as far as no failure has been explained."""
    witness = item.stash.get(_WITNESS, None)
    return () if witness is None else tuple(witness.guests)


def explain_report(
    item: pytest.Item, report: pytest.TestReport, failure: BaseException | None
) -> None:
    """Add a section for each guest of the test's to a failed report, and plain values.

    `report.pyvmm_guests` is a list of `Explanation.to_json`. Guests are explained once, in the
    report of the phase that failed first.
    """
    witness = item.stash.get(_WITNESS, None)
    if witness is None or not report.failed:
        return
    for look in witness.still_open:
        look()
    told = []
    for remains in witness.guests:
        explanation = explain(remains, failure)
        report.sections.append((explanation.title, explanation.to_text()))
        told.append(explanation.to_json())
    witness.guests.clear()
    if told:
        setattr(report, GUESTS, told)
