# SPDX-License-Identifier: MIT
"""Reports of tests that have failed: a section that explains each of their guests."""

from __future__ import annotations

import pytest

from pyvmm.testing.explaining.artifacts import Artifacts, with_files
from pyvmm.testing.explaining.explain import explain, with_artifacts
from pyvmm.testing.explaining.witness import CorePath, Remains, Witness

GUESTS = "pyvmm_guests"
"""Attribute of a failed report: a list of `Explanation.to_json`.

One that has passed, but whose guest's own results have failed, has it, too; and `SECTIONS`.
"""
SECTIONS = "pyvmm_sections"
"""Attribute of such a report: a list of titles and texts, for the reports of the results."""
_WITNESS = pytest.StashKey[Witness]()
_SHARED = "session_boot"
_ARTIFACTS = pytest.StashKey[Artifacts]()


def witness_of(item: pytest.Item) -> Witness:
    """Return the witness of a test's guests; it has one from then on."""
    witness = item.stash.get(_WITNESS, None)
    if witness is None:
        config = item.config
        folder = config.getoption("--pyvmm-artifacts")
        core_path = None
        if folder is not None:
            here = config.invocation_params.dir
            artifacts = item.stash[_ARTIFACTS] = Artifacts(here / folder, item.nodeid, here)
            core_path = artifacts.core_path
        always = bool(folder) and config.getoption("--pyvmm-artifacts-always")
        witness = item.stash[_WITNESS] = Witness(core_path, always=always)
    return witness


def witness_of_session(session: pytest.Session) -> Witness:
    """Return the witness of the guests that several tests share."""
    return session.stash.setdefault(_WITNESS, Witness(shared=True))


def _shared_guests(item: pytest.Item, core_path: CorePath | None) -> list[Remains]:
    """Guests of the session's that the test may have used, looked at anew."""
    witness = item.session.stash.get(_WITNESS, None)
    if witness is None or _SHARED not in getattr(item, "fixturenames", ()):
        return []
    witness.core_path = core_path
    guests = [one for one in witness.guests if not one.life.is_closed]
    for remains in guests:
        remains.forget()
    for look in witness.still_open:
        look()
    return guests


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
    if witness is None and _WITNESS in item.session.stash:
        witness = witness_of(item)
    if witness is None:
        return
    is_last = report.when == "teardown"
    are_results_failed = report.when == "call" and witness.has_failed_results
    if report.failed or are_results_failed or (is_last and witness.always):
        try:
            _explain(item, witness, report, failure)
        except Exception as error:  # noqa: BLE001 - the test's own failure must be told
            told = f"a defect of pyvmm: its guests cannot be explained: {error!r}"
            report.sections.append(("pyvmm", told))
    artifacts = item.stash.get(_ARTIFACTS, None)
    if is_last and artifacts is not None:
        artifacts.drop()
    if is_last:
        # Tests stay until the session ends; machines and consoles of theirs need not.
        witness.guests.clear()
        witness.still_open.clear()
        for recording in witness.recordings:
            recording.close()
        witness.recordings.clear()


def _explain(
    item: pytest.Item,
    witness: Witness,
    report: pytest.TestReport,
    failure: BaseException | None,
) -> None:
    for look in witness.still_open:
        look()
    artifacts = item.stash.get(_ARTIFACTS, None)
    guests = list(witness.guests)
    witness.guests.clear()
    guests += _shared_guests(item, None if artifacts is None else artifacts.core_path)
    told, sections = [], []
    for number, remains in enumerate(guests, 1):
        explanation = explain(remains, failure)
        if artifacts is not None:
            explanation = artifacts.write(remains, explanation, number, len(guests))
        if not explanation.artifacts:
            by_hand = with_files(remains.life.request, explanation.by_hand)
            explanation = with_artifacts(explanation, "", by_hand)
        sections.append((explanation.title, explanation.to_text()))
        told.append(explanation.to_json())
    if artifacts is not None:
        artifacts.write_networks(witness.recordings)
    if artifacts is not None and artifacts.failures:
        sections.append(("pyvmm artifacts", "\n".join(artifacts.failures)))
    if report.failed:
        report.sections += sections
    elif report.when == "call":
        setattr(report, SECTIONS, [list(each) for each in sections])
    else:
        return
    if told:
        setattr(report, GUESTS, told)
