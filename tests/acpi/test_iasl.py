# SPDX-License-Identifier: MIT
"""What ACPICA's compiler makes of the tables: disassembled, compiled again, the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.acpi.tables import acpi_tables
from tests.conftest import REQUIRED

from .machines import MACHINES, PLACE
from .parsing import tables

pytestmark = pytest.mark.slow

_OF_THE_COMPILER = (slice(9, 10), slice(28, 36))
"""Checksum, and the compiler's name and version: iasl writes its own."""


@pytest.fixture(scope="module")
def iasl() -> str:
    found = shutil.which("iasl")
    if found is None:
        if "iasl" in REQUIRED:
            pytest.fail("iasl is not installed (./setup-system test)")
        pytest.skip("iasl is not installed (./setup-system test)")
    return found


def run(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("name", MACHINES)
def test_iasl_takes_the_tables_apart_and_puts_them_together_again(
    iasl: str, tmp_path: Path, name: str
) -> None:
    for signature, content in tables(acpi_tables(MACHINES[name], PLACE), PLACE.start).items():
        stem = tmp_path / signature.decode()
        stem.with_suffix(".dat").write_bytes(content)
        said = run(iasl, "-d", stem.with_suffix(".dat"))
        assert "Warning" not in said, said
        said = run(iasl, "-p", tmp_path / "again", stem.with_suffix(".dsl"))
        assert " 0 Errors, 0 Warnings, 0 Remarks" in said, said
        made, again = bytearray(content), bytearray((tmp_path / "again.aml").read_bytes())
        if signature != b"FACS":
            for part in _OF_THE_COMPILER:
                made[part] = again[part] = bytes(part.stop - part.start)
        assert again == made, signature
