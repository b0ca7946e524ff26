# SPDX-License-Identifier: MIT
"""Which tests `make quick`, `make check` and `make test` run, and what is started first.

`make quick` has what is not marked `slow`, and needs neither QEMU nor a lab. `make check` has all
but what stands here: tests that take long, beside which others in their room look into the same.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

import pytest

LONG = (
    # Minutes of a lab: tests/lab has others that use it.
    "tests/lab/test_suite_in_lab.py",
    "tests/lab/test_compare_in_lab.py",
    "tests/lab/test_linux_in_lab.py",
    "tests/lab/test_linux_networks.py",
    "tests/lab/test_life_of_a_lab.py",
    "tests/lab/test_pyvmm_as_monitor.py::test_a_lab_in_the_lab_under_pyvmm",
    "tests/compare/test_guests_in_lab.py::test_it_behaves_alike",
    "tests/testing/test_lab_tests.py::test_in_the_lab_itself",
    "tests/benchmarks/test_smoke.py",
    # A wheel, a virtual environment, and everything that its reader does.
    "tests/testing/test_tutorial.py",
    # Larger universes, more machines, more memory, more of the same.
    "tests/lifetime/test_explorer.py::test_what_holds_in_larger_universes",
    "tests/lifetime/test_races.py::test_three_operations_at_a_time_do_no_harm",
    "tests/lifetime/test_tour.py::test_the_sequences_take_every_transition_of_the_explorers_graph",
    "tests/guest/test_images_in_qemu.py::test_memtest_above_4_gib",
    "tests/guest/test_images_in_qemu.py::test_memtest_with_pages_of_1_gib",
    "tests/guest/test_images.py::test_out_gets_images_and_nothing_else",
    "tests/machine/test_machine.py::test_many_runs_leave_as_much_as_one",
    "tests/machine/test_saved_machine.py::test_a_guest_that_moves_often",
    "tests/differential/test_against_kvm.py::test_the_model_answers_as_kvm_does",
    "tests/compare/test_command.py::test_an_interruption_leaves_nothing_behind",
    "tests/cli/test_bad_input.py::test_refused_as_a_process",
    "tests/lifetime/test_writeup.py::test_the_documents_have_what_is_generated_now",
    "tests/console/test_pipes.py::test_stalled_reader_gets_everything",
    "tests/console/test_pipes.py::test_guest_goes_on_without_a_reader_up_to_a_bound",
    "tests/console/test_pipes.py::test_64_kib_both_ways",
    "tests/testing/matrix/test_cluster.py::test_a_boot_that_kills_every_worker_is_lost_and_the",
    "tests/testing/matrix/test_cluster.py::test_a_boot_goes_to_a_worker_that_has_its_host",
)
"""Beginnings of node ids."""


class Selection(Enum):
    """How much is run."""

    QUICK = "quick"
    CHECK = "check"
    ALL = "all"

    def has(self, item: pytest.Item) -> bool:
        """Whether `item` is run."""
        match self:
            case Selection.QUICK:
                return not any(map(item.get_closest_marker, ("slow", "qemu", "lab")))
            case Selection.CHECK:
                return not item.nodeid.startswith(LONG)
            case Selection.ALL:
                return True


_WHOLE_FILE = re.compile(r"^pytestmark = .*\b(slow|qemu|lab)\b", re.MULTILINE)


def has_nothing_quick(path: Path) -> bool:
    """Whether all tests of a file are left out of `make quick`: then it need not be imported."""
    return _WHOLE_FILE.search(path.read_text(encoding="utf-8")) is not None


_LONG_FILES = frozenset(start.partition("::")[0] for start in LONG)


def starts_early(item: pytest.Item) -> int:
    """A key to sort by: the one file that takes longest, then others that take long, then all.

    A file is one process's: what is left for the end are short ones, so that no other waits long.
    """
    file = item.nodeid.partition("::")[0]
    if file == LONG[0]:
        return 0
    is_long = file in _LONG_FILES or file.startswith("tests/lab/") or "_in_lab" in item.nodeid
    return 1 if is_long else 2
