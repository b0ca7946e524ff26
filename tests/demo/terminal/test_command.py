# SPDX-License-Identifier: MIT
"""``pyvmm demo`` without a terminal: what it writes, and its exit codes."""

from __future__ import annotations

import pytest

from pyvmm.cli.main import main
from pyvmm.demo.chapters import BOOK


def test_a_chapter_is_played_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "slots", "--host", "model"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    (slots,) = (one for one in BOOK.chapters if one.id == "slots")
    count = len(slots.steps)
    assert out.count(f"/{count} {slots.title} - on the model\n") == count
    assert "KVM was not asked: the model answered for it\nKVM_CREATE_VM(" in out
    assert "  struct kvm_userspace_memory_region\n    .guest_phys_addr = 0x100000\n" in out
    assert "ANSWER: refused, EEXIST\n" in out
    assert "[kvm_set_memory_region: kvm_check_memslot_overlap]" in out
    assert "Enter" not in out
    assert "\x1b" not in out


def test_a_step_to_begin_at(capfd: pytest.CaptureFixture[str]) -> None:
    slots = BOOK.chapters[0]
    count = len(slots.steps)
    assert main(["demo", f"{slots.id}/{slots.steps[-1].id}", "--host", "model"]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"\n{count}/{count} {slots.title} - on the model\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slot"], "there is no chapter 'slot'; did you mean slots?"),
        (["slots/delet"], "there is no step 'delet' in slots; did you mean delete?"),
        (["--host", "kvn"], "argument --host: invalid choice: 'kvn'"),
    ],
)
def test_mistakes(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 64
    out, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--list"]) == 0
    assert capfd.readouterr().out.startswith("slots  ")
