# SPDX-License-Identifier: MIT
"""Options that say which hardware: how they are written, and what they become."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.hardware_options import hardware_of
from pyvmm.cli.named_values import named_values
from pyvmm.machine.hardware import Hardware, Share


def test_a_comma_of_a_value_is_doubled() -> None:
    assert named_values("a,,b.img,serial=x,,y,queues=2", ("serial", "queues")) == (
        "a,b.img",
        {"serial": "x,y", "queues": "2"},
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b", "it may be serial=, queues="),
        ("a,size=1", "it may be serial="),
        ("a,serial=1,serial=2", "comes twice"),
        ("a,", "it may be"),
    ],
)
def test_what_cannot_be_is_refused(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        named_values(text, ("serial", "queues"))


def test_nothing_asked_for_is_none_and_the_rest_becomes_hardware() -> None:
    options = argparse.Namespace(image="x", hardware_rng=None, hardware_shares=[])
    assert hardware_of(options) is None
    share = Share("tag", Path("folder"))
    options = argparse.Namespace(hardware_rng=True, hardware_shares=[share])
    assert hardware_of(options) == Hardware(rng=True, shares=(share,))
