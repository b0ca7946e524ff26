# SPDX-License-Identifier: MIT
"""Commands where /proc is not mounted, as in a chroot: they do without, or say what they lack."""

from __future__ import annotations

import subprocess
import sys

import pytest

COVERED = 'mount -t tmpfs none /proc && exec "$@"'
WITHOUT = ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", COVERED, "sh"]


def without_proc(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WITHOUT, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def _covered() -> None:
    tried = without_proc("test", "!", "-e", "/proc/self")
    if tried.returncode:
        pytest.skip(f"/proc cannot be covered here: {tried.stderr.strip()}")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("compare", "hello", "--runs", "1"), 69, "there is no /proc/self/fd; mount /proc"),
        (("net", "status"), 69, "there is no /proc/thread-self/ns/net; mount /proc"),
        pytest.param(("doctor",), 0, "", marks=pytest.mark.slow),
        pytest.param(("run", "hello", "--host", "model"), 0, "", marks=pytest.mark.slow),
        pytest.param(("demo", "slots", "--host", "model"), 0, "", marks=pytest.mark.slow),
        pytest.param(
            ("demo", "pins", "--host", "kvm"), 0, "", marks=[pytest.mark.slow, pytest.mark.kvm]
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_command_without_proc(command: tuple[str, ...], code: int, said: str) -> None:
    done = without_proc(sys.executable, "-m", "pyvmm", *command)
    assert done.returncode == code, done.stderr[-2000:] + done.stdout[-2000:]
    assert "internal error" not in done.stderr
    if said:
        assert said in done.stderr.splitlines()[-1]
    else:
        assert done.stdout
