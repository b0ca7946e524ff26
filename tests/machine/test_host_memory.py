# SPDX-License-Identifier: MIT
"""How much the host will give, from made-up kernel files."""

from __future__ import annotations

import pytest

from pyvmm.machine import host_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    contents = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/\n"}
    host_memory._limits_of.cache_clear()
    monkeypatch.setattr(host_memory, "_read", lambda path: contents.get(path, "").encode())
    return contents


def test_what_the_kernel_calls_available(files: dict[str, str]) -> None:
    assert host_memory.available() == 4 * GIB


def test_a_limit_of_a_parent_group_counts(files: dict[str, str]) -> None:
    files["/proc/self/cgroup"] = "0::/a/b\n"
    files["/sys/fs/cgroup/a/b/memory.max"] = "max\n"
    files["/sys/fs/cgroup/a/memory.max"] = f"{2 * GIB}\n"
    files["/sys/fs/cgroup/a/memory.current"] = f"{GIB}\n"
    assert host_memory.available() == GIB


def test_cache_that_can_be_dropped_is_not_in_the_way(files: dict[str, str]) -> None:
    files["/proc/self/cgroup"] = "0::/a\n"
    files["/sys/fs/cgroup/a/memory.max"] = f"{2 * GIB}\n"
    files["/sys/fs/cgroup/a/memory.current"] = f"{2 * GIB}\n"
    files["/sys/fs/cgroup/a/memory.stat"] = f"anon 5\ninactive_file {GIB}\n"
    assert host_memory.available() == GIB


def test_the_first_version_of_control_groups(files: dict[str, str]) -> None:
    files["/proc/self/cgroup"] = "4:cpu,memory:/x\n0::/\n"
    files["/sys/fs/cgroup/memory/x/memory.limit_in_bytes"] = f"{3 * GIB}\n"
    files["/sys/fs/cgroup/memory/x/memory.usage_in_bytes"] = f"{GIB}\n"
    assert host_memory.available() == 2 * GIB


def test_in_a_container_the_root_is_its_own_group(files: dict[str, str]) -> None:
    files["/sys/fs/cgroup/memory.max"] = f"{GIB}\n"
    files["/sys/fs/cgroup/memory.current"] = "0\n"
    assert host_memory.available() == GIB


def test_a_group_over_its_limit_gives_nothing(files: dict[str, str]) -> None:
    files["/proc/self/cgroup"] = "0::/a\n"
    files["/sys/fs/cgroup/a/memory.max"] = "4096\n"
    files["/sys/fs/cgroup/a/memory.current"] = "8192\n"
    assert host_memory.available() == 0


def test_this_machine_has_some() -> None:
    assert 0 < host_memory.available() < 1 << 62
