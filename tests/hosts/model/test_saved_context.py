# SPDX-License-Identifier: MIT
"""A processor's saved context is believed only where it does not contradict itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pyvmm.errors import UsageError
from pyvmm.hosts.model.saved_values import ModelSavedVcpu
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vcpu import ModelVcpu

HIDDEN_FLAGS, HIDDEN_FLAGS_END = 176, 184


@pytest.fixture
def vcpu() -> Iterator[ModelVcpu]:
    with ModelSystem() as system, system.create_vm() as vm, vm.create_vcpu(0) as made:
        yield made


def status_words(vcpu: ModelVcpu, saved: ModelSavedVcpu) -> list[tuple[int, int]]:
    """Offsets of 32-bit numbers that no register is, and which are 0 to 7 when restored."""
    found = []
    for at in range(184, 1000, 4):
        context = bytearray(saved.context)
        context[at : at + 4] = (8 + 5).to_bytes(4, "little")
        try:
            vcpu.restore(replace(saved, context=bytes(context)))
        except UsageError:
            continue
        now = int.from_bytes(vcpu.save().context[at : at + 4], "little")
        if now != 13:
            found.append((at, now))
    return found


def test_what_was_saved_comes_back_as_it_was(vcpu: ModelVcpu) -> None:
    saved = vcpu.save()
    vcpu.restore(saved)
    assert vcpu.save().context == saved.context


def test_hidden_flags_follow_from_the_state(vcpu: ModelVcpu) -> None:
    saved = vcpu.save()
    context = bytearray(saved.context)
    shadow_of_sti = 1 << 3
    context[HIDDEN_FLAGS:HIDDEN_FLAGS_END] = bytes.fromhex("f7ffffff ffffffff")
    vcpu.restore(replace(saved, context=bytes(context)))
    assert vcpu.save().context == saved.context
    context[HIDDEN_FLAGS] |= shadow_of_sti
    vcpu.restore(replace(saved, context=bytes(context)))
    flags = vcpu.save().context[HIDDEN_FLAGS]
    assert flags == saved.context[HIDDEN_FLAGS] | shadow_of_sti


def test_the_top_of_the_x87_s_stack_stays_on_it(vcpu: ModelVcpu) -> None:
    assert [now for _, now in status_words(vcpu, vcpu.save())] == [5]


def test_what_no_unit_of_floating_point_can_be_in_is_refused(vcpu: ModelVcpu) -> None:
    saved = vcpu.save()
    with pytest.raises(UsageError, match="no processor was ever saved with such x87 and SSE"):
        vcpu.restore(replace(saved, context=b"\xff" * len(saved.context)))
    refused = 0
    for at in range(HIDDEN_FLAGS_END, 1000):
        context = bytearray(saved.context)
        context[at] = 0x55
        try:
            vcpu.restore(replace(saved, context=bytes(context)))
        except UsageError:
            refused += 1
    # Of each of the three all bytes but that of its exceptions.
    assert refused == 3 * 7


def test_any_context_runs_or_is_refused(vcpu: ModelVcpu) -> None:
    saved = vcpu.save()
    chosen = random.Random(2)
    for _ in range(20):
        context = bytearray(chosen.randbytes(len(saved.context)))
        with pytest.raises(UsageError):
            vcpu.restore(replace(saved, context=bytes(context)))
        vcpu.restore(saved)
        assert vcpu.save().context == saved.context
