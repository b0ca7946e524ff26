# SPDX-License-Identifier: MIT
"""``python -m tests.testing.generate_blocking_tests``: the tests of a guest for its twin."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.machine.generate_blocking_tests import changed

SOURCE = Path(__file__).parent / "test_async_vm.py"
_DOCSTRING = '''\
"""A booted guest from a synchronous test's side. Made of `test_async_vm`: not to be edited."""
'''
_CHANGES = (
    (r'"""A booted guest.*?"""\n', _DOCSTRING),
    (r"\n@pytest.fixture\ndef async_boot.*?\n\n\n", ""),
    (r"from collections.abc import Iterator\n", ""),
    (
        r"from pyvmm.testing.async_boots import AsyncBoots\n",
        "from pyvmm.testing.boots import Boots\n",
    ),
    (r"from tests.machine.in_trio import in_trio\n", ""),
    # The same once more, by another way: `make quick` has the way itself in test_boot.
    (r"^each_host = ", "pytestmark = pytest.mark.slow\neach_host = "),
    (r"@in_trio\n", ""),
    (r"\basync def test_", "def test_"),
    (r"\basync with ", "with "),
    (r"\bawait ", ""),
    (r"\basync_boot\b", "boot"),
    (r"\bAsyncBoots\b", "Boots"),
)


def generated() -> str:
    """Return the module's text; ``ruff`` lays it out."""
    return changed(SOURCE, _CHANGES)


if __name__ == "__main__":
    sys.stdout.write(generated())
