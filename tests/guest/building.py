"""Building the guests, and what their images must look like."""

from __future__ import annotations

import subprocess
from pathlib import Path

GUEST = Path(__file__).parents[2] / "guest"

PROGRAMS = (
    "echo",
    "exit",
    "fault",
    "hang",
    "hello",
    "hypercall",
    "memtest",
    "panic",
    "ring3",
    "selftest",
    "timer",
    "triple",
)


def make(*arguments: str) -> str:
    """``make -C guest`` with `arguments`: what it says. Fails the test with its errors."""
    done = subprocess.run(
        ["make", "-C", str(GUEST), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
