# SPDX-License-Identifier: MIT
"""Two examinations compared: what differs is told, what follows from it or was measured is not."""

from __future__ import annotations

import json

import pytest

from pyvmm.errors import UsageError
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.examination_differences import Answers, answers_of, differences, read_answers
from pyvmm.machine.findings import Consequence, Examination, Finding, Verdict
from pyvmm.machine.kernel_matrix import KernelMatrix, try_matrix
from pyvmm.rules.profile import IN_PLACE, MAINLINE, SHARED_ONLY, Profile


def matrix(profile: Profile) -> KernelMatrix:
    with ModelSystem(profile) as system:
        return try_matrix(system)


def told(
    findings: tuple[Finding, ...] = (),
    tried: KernelMatrix | None = None,
    because: str = "it needs nothing",
) -> Answers:
    follows = (Consequence("pyvmm run", Verdict.HAS, because),)
    whole = Examination("a host", findings, follows, tried)
    return read_answers(json.dumps(whole.to_json()).encode(), "told.json")


def test_the_same_examination_has_no_difference() -> None:
    one = told((Finding("a", Verdict.HAS, "yes", "so"),), matrix(MAINLINE))
    assert one == answers_of(json.loads(json.dumps(Examination(
        "a host", (Finding("a", Verdict.HAS, "yes", "other words"),),
        (Consequence("pyvmm run", Verdict.HAS, "it needs nothing"),), matrix(MAINLINE),
    ).to_json())))  # fmt: skip
    assert differences(one, one) == ()


def test_answers_that_differ_and_answers_that_one_has_not() -> None:
    there = told((Finding("a", Verdict.HAS, "1", ""), Finding("b", Verdict.HAS, "yes", "")))
    here = told(
        (Finding("c", Verdict.HAS, "new", ""), Finding("a", Verdict.LACKS, "0", "")), because="luck"
    )
    assert [tuple(one.to_json().values()) for one in differences(there, here)] == [
        ("c", "(not examined)", "new"),
        ("a", "1", "0"),
        ("b", "yes", "(not examined)"),
        ("pyvmm run", "has: it needs nothing", "has: luck"),
    ]


def test_figures_that_were_measured_do_not_count_but_their_verdicts_do() -> None:
    def speed(verdict: Verdict, figure: str) -> Answers:
        return told((Finding("speed", verdict, figure, "", measured=True),))

    assert not differences(speed(Verdict.HAS, "900"), speed(Verdict.HAS, "800"))
    (only,) = differences(speed(Verdict.HAS, "900"), speed(Verdict.PARTLY, "2"))
    assert (only.there, only.here) == ("has", "partly")


def test_a_kernel_with_conversion_in_place_beside_one_without() -> None:
    found = differences(told(tried=matrix(MAINLINE)), told(tried=matrix(IN_PLACE)))
    told_of = {one.what: (one.there, one.here) for one in found}
    assert told_of["SW_PROTECTED guest_memfd, flags none: private by file"] == ("ENOTTY", "yes")
    assert told_of["SW_PROTECTED guest_memfd, flags MMAP: private by VM"] == ("yes", "EINVAL")
    shared = "SW_PROTECTED guest_memfd, flags MMAP INIT_SHARED: "
    # What could be tried on one of them alone follows from the first difference.
    assert [what for what in told_of if what.startswith(shared)] == [f"{shared}create"]
    assert told_of[f"{shared}create"] == ("EINVAL", "yes")


def test_of_a_type_of_vm_that_one_kernel_has_not_only_that_is_told() -> None:
    found = differences(told(tried=matrix(MAINLINE)), told(tried=matrix(SHARED_ONLY)))
    assert [one.what for one in found if "SW_PROTECTED" in one.what] == ["VM of type SW_PROTECTED"]
    assert (found[0].there, found[0].here) == ("yes", "EINVAL")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"3", b"\xff", b"{}", b'{"findings": 1}', b"[" * 100_000, b"NaN",
        b'{"host": "h", "findings": [3], "consequences": []}',
        b'{"host": "h", "findings": [{"what": 1}], "consequences": []}',
        b'{"host": "h", "findings": [{"what": "a", "answer": null}], "consequences": []}',
        b'{"host": "h", "findings": [], "consequences": [], "matrix": 1}',
        b'{"host": "h", "findings": [], "consequences": [], "matrix": {"vm_types": []}}',
        b'{"host": "h", "findings": [], "consequences": [], "matrix": {"vm_types": {}, '
        b'"files": [{"vm_type": "A", "flag_names": "B", "tried": {"create": 0}}]}}',
        b'{"findings": [], "consequences": []}',
    ],
    ids=range(16),
)  # fmt: skip
def test_files_that_doctor_did_not_write(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"'a\.json'.* pyvmm doctor --json wrote"):
        read_answers(content, "a.json")
