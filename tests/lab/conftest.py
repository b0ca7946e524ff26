# SPDX-License-Identifier: MIT
"""One lab for all tests that need one, and labs of their own for those that break them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.lab.settings import find_kernel
from tests.conftest import REQUIRED
from tests.lab.checkout import PLACE, UNPACK, packed
from tests.lab.places import LabAtHand, qemus_of


def environment(directory: Path) -> dict[str, str]:
    """For a lab that has its files in `directory`."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "XDG_RUNTIME_DIR": str(directory),
    }


def need_kernel(name: str, required_as: str) -> None:
    """Skip without the kernel `name`, or fail where PYVMM_REQUIRE has `required_as`."""
    try:
        find_kernel(name)
    except HostLacksError as error:
        if required_as in REQUIRED:
            pytest.fail(str(error))
        pytest.skip(f"no lab with the kernel {name}: {error}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabAtHand]:
    """A lab that is up, for the whole session."""
    at_hand = LabAtHand(environment(tmp_path_factory.mktemp("lab")))
    done = at_hand.pyvmm("lab", "up")
    assert done.code == 0, done.err
    yield at_hand
    at_hand.pyvmm("lab", "down")


@pytest.fixture(scope="session")
def checkout(lab: LabAtHand) -> str:
    """The folder in the lab that has a copy of this checkout."""
    done = lab.inside(["sh", "-c", UNPACK], given=packed())
    assert done.code == 0, done.err
    return PLACE


@pytest.fixture
def no_lab(tmp_path: Path) -> Iterator[LabAtHand]:
    """A place where no lab is up. Nothing that a test starts there survives it."""
    yield LabAtHand(environment(tmp_path))
    LabAtHand(environment(tmp_path)).pyvmm("lab", "down")
    deadline = time.monotonic() + 20
    while qemus_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not qemus_of(tmp_path), "a lab was left behind"
