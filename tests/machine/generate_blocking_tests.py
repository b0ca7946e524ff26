# SPDX-License-Identifier: MIT
"""``python -m tests.machine.generate_blocking_tests``: the tests of a machine for its twin."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).parent / "test_open_machine.py"
_DOCSTRING = '''\
"""A blocking machine from its owner's side. Made of `test_open_machine`: not to be edited."""
'''
_CHANGES = (
    (r'"""An opened machine.*?"""\n', _DOCSTRING),
    (r"@in_trio\n", ""),
    (r"import HANG, in_trio", "import HANG"),
    (r"\basync def test_", "def test_"),
    (r"\basync with ", "with "),
    (r"\bawait ", ""),
    (r"\bopen_machine\(", "open_blocking_machine("),
)


def changed(source: Path, changes: Iterable[tuple[str, str]]) -> str:
    """The text of a module after all of the changes, each of which must find something."""
    text = source.read_text(encoding="utf-8")
    for pattern, instead in changes:
        text, count = re.subn(pattern, instead, text, flags=re.DOTALL | re.MULTILINE)
        assert count, f"nothing is like {pattern}"
    return text


def generated() -> str:
    """Return the module's text; ``ruff format`` lays it out."""
    return changed(SOURCE, _CHANGES)


if __name__ == "__main__":
    sys.stdout.write(generated())
