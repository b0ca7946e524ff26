# SPDX-License-Identifier: MIT
"""The fragment is what it is meant to be, and what Kconfig drops is seen."""

from __future__ import annotations

import re

import pytest

from pyvmm.lab.kernel.configuration import Fragment, lab_fragment, parse

NEEDED = [
    "KVM",
    "KVM_AMD",
    "KVM_SW_PROTECTED_VM",
    "PVH",
    "SMP",
    "PRINTK",
    "BLK_DEV_INITRD",
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "SERIAL_8250_CONSOLE",
    "VIRTIO_PCI",
    "VIRTIO_CONSOLE",
    "NET_9P_VIRTIO",
    "9P_FS",
    "DEVTMPFS",
    "TMPFS",
    "SHMEM",
    "PROC_FS",
    "SYSFS",
    "DEBUG_FS",
    "UNIX98_PTYS",
    "UNIX",
    "INET",
    "PACKET",
    "TUN",
    "BRIDGE",
    "EPOLL",
    "EVENTFD",
    "SIGNALFD",
    "TIMERFD",
    "MEMFD_CREATE",
    "USERFAULTFD",
    "FILE_LOCKING",
    "FUTEX",
    "AIO",
    "MEMBARRIER",
    "POSIX_TIMERS",
    "HIGH_RES_TIMERS",
]


@pytest.mark.parametrize("option", NEEDED)
def test_what_the_lab_needs_is_required(option: str) -> None:
    assert lab_fragment().required[f"CONFIG_{option}"] == "y"


def test_nothing_is_a_module_and_nothing_is_said_twice() -> None:
    fragment = lab_fragment()
    values = {**fragment.required, **fragment.wished}
    assert values["CONFIG_MODULES"] == "n"
    assert "m" not in values.values()
    names = re.findall(r"^(?:# )?(CONFIG_\w+)", fragment.text, re.MULTILINE)
    assert len(names) == len(set(names)) == len(values)


def test_every_line_is_understood() -> None:
    for line in lab_fragment().text.splitlines():
        assert not line.startswith("CONFIG") or any(parse(line)), line


def fragment(text: str) -> Fragment:
    return Fragment(text, *parse(text))


def test_dropped_options_are_named() -> None:
    wanted = fragment(
        'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D="x"\n'
        "# where known: more\nCONFIG_E=y\n"
    )
    assert wanted.dropped('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D="x"\n') == []
    assert wanted.dropped("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n") == [
        "CONFIG_B", "CONFIG_C", "CONFIG_D",
    ]  # fmt: skip


def test_the_hash_is_of_the_options_alone() -> None:
    first = fragment("# a word\nCONFIG_A=y\nCONFIG_B=y\n")
    assert first.hash == fragment("CONFIG_B=y\n\nCONFIG_A=y\n").hash
    assert first.hash != fragment("CONFIG_A=y\n# CONFIG_B is not set\n").hash
