# SPDX-License-Identifier: MIT
"""vhost-net's requests: numbers and structures as the system's header has them, and their order."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError, PyvmmError, SystemCallError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.net import vhost
from pyvmm.net.vhost import RECEIVE, TRANSMIT, HostRegion, VhostNet, VhostRing, open_vhost

HEADER = Path("/usr/include/linux/vhost.h")
STRUCTURES = {
    "vhost_vring_state": vhost.STATE,
    "vhost_vring_file": vhost.FILE,
    "vhost_vring_addr": vhost.ADDRESSES,
    "vhost_memory": vhost.MEMORY,
    "vhost_memory_region": vhost.REGION,
}
KERNEL_S = vhost.NEEDED | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 33
MEMORY = [HostRegion(0, 0x8000_0000, 0x7F00_0000_0000), HostRegion(1 << 32, 0x1000, 0x1000)]
DRIVER_S = vhost.NEEDED | 1 << 5 | 1 << 28
"""Features of a driver's: a MAC address is none of the kernel's business."""


class Recorded:
    """A kernel that says yes, and notes down what it was asked: name, then words of 32 bits."""

    def __init__(self, features: int = KERNEL_S, fails: str = "") -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.features = features
        self.fails = fails
        self.taken = 0x1_0000 + 7
        """Answer to GET_VRING_BASE; a packed ring's has more than 16 bits."""

    def __call__(self, fd: int, request: int, argument: bytearray, /) -> int:
        assert fd >= 0
        name = vhost.REQUESTS[request].removeprefix("VHOST_")
        self.calls.append((name, bytes(argument)))
        if name == self.fails:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if name == "GET_FEATURES":
            argument[:] = struct.pack("=Q", self.features)
        if name == "GET_VRING_BASE":
            argument[4:] = struct.pack("=I", self.taken)
        return 0

    def asked(self) -> list[str]:
        """Names of the requests since the last look."""
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names


def device(kernel: Recorded) -> VhostNet:
    return VhostNet(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), kernel)


def ring(kick: Eventfd, position: int = 5) -> VhostRing:
    return VhostRing(256, 0x1000, 0x2000, 0x3000, position, kick.fileno(), 21, 22, 23)


@pytest.mark.skipif(not HEADER.exists(), reason="no <linux/vhost.h>")
def test_numbers_and_sizes_are_the_systems(tmp_path: Path) -> None:
    names = list(vhost.REQUESTS.values())
    lines = [f'printf("%lu\\n", (unsigned long){name});' for name in names]
    lines += [f'printf("%zu\\n", sizeof(struct {name}));' for name in STRUCTURES]
    lines += [
        'printf("%zu\\n", offsetof(struct vhost_vring_addr, desc_user_addr));',
        'printf("%zu\\n", offsetof(struct vhost_vring_addr, used_user_addr));',
        'printf("%zu\\n", offsetof(struct vhost_vring_addr, avail_user_addr));',
    ]
    source = tmp_path / "sizes.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n"
        f"#include <linux/vhost.h>\nint main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "sizes", source], check=True)
    said = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    sizes = [structure.size for structure in STRUCTURES.values()]
    assert [*map(int, said.split())] == [*vhost.REQUESTS, *sizes, 8, 16, 24]


def test_a_ring_is_set_up_before_it_is_served_and_let_go_of_afterwards() -> None:
    kernel = Recorded()
    with device(kernel) as opened, Eventfd() as kick:
        assert kernel.asked() == ["SET_OWNER", "GET_FEATURES"]
        # Logging, headers of the kernel's own and addresses to be asked for are not ours.
        assert opened.features == KERNEL_S & ~(1 << 26 | 1 << 27 | 1 << 33)
        opened.set_up(DRIVER_S, MEMORY)
        assert kernel.calls == [
            ("SET_FEATURES", struct.pack("=Q", vhost.NEEDED | 1 << 28)),
            (
                "SET_MEM_TABLE",
                struct.pack("=II", 2, 0)
                + struct.pack("=4Q", 0, 0x8000_0000, 0x7F00_0000_0000, 0)
                + struct.pack("=4Q", 1 << 32, 0x1000, 0x1000, 0),
            ),
        ]
        kernel.asked()
        opened.start(TRANSMIT, ring(kick))
        assert kernel.calls == [
            ("SET_VRING_NUM", struct.pack("=II", 1, 256)),
            ("SET_VRING_BASE", struct.pack("=II", 1, 5)),
            ("SET_VRING_ADDR", struct.pack("=II4Q", 1, 0, 0x1000, 0x3000, 0x2000, 0)),
            ("SET_VRING_KICK", struct.pack("=Ii", 1, kick.fileno())),
            ("SET_VRING_CALL", struct.pack("=Ii", 1, 21)),
            ("SET_VRING_ERR", struct.pack("=Ii", 1, 22)),
            ("NET_SET_BACKEND", struct.pack("=Ii", 1, 23)),
        ]
        assert kick.drain() == 1, "nobody has the kernel look at what is there already"
        assert opened.running == {TRANSMIT}
        kernel.asked()
        # What is in force is not set again: the other ring is being served.
        opened.set_up(DRIVER_S, MEMORY)
        opened.start(RECEIVE, ring(kick))
        assert not {"SET_FEATURES", "SET_MEM_TABLE"} & {*kernel.asked()}
        assert opened.stop(TRANSMIT) == 7
        assert kernel.calls[:2] == [
            ("NET_SET_BACKEND", struct.pack("=Ii", 1, -1)),
            ("GET_VRING_BASE", struct.pack("=II", 1, 0)),
        ]
        assert {name for name, given in kernel.calls if given == struct.pack("=Ii", 1, -1)} == {
            "NET_SET_BACKEND", "SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR",
        }  # fmt: skip
        assert opened.running == {RECEIVE}
        kernel.asked()
        opened.set_up(DRIVER_S & ~(1 << 28), MEMORY[:1])
        assert kernel.asked() == ["SET_FEATURES", "SET_MEM_TABLE"]
    opened.close()
    assert opened.running == frozenset()


@pytest.mark.parametrize(
    "fails", ["SET_VRING_NUM", "SET_VRING_ADDR", "SET_VRING_CALL", "NET_SET_BACKEND"]
)
def test_a_ring_that_cannot_be_served_is_let_go_of(fails: str) -> None:
    class Once(Recorded):
        def __call__(self, fd: int, request: int, argument: bytearray, /) -> int:
            try:
                return super().__call__(fd, request, argument)
            except OSError:
                self.fails = ""
                raise

    kernel = Once(fails=fails)
    with device(kernel) as opened, Eventfd() as kick:
        with pytest.raises(SystemCallError, match=rf"VHOST_{fails}.*vhost=off") as refused:
            opened.start(RECEIVE, ring(kick))
        assert refused.value.errno == errno.EBUSY
        assert kernel.asked()[-4:] == [
            "NET_SET_BACKEND", "SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR",
        ]  # fmt: skip
        assert opened.running == frozenset()
        assert kick.drain() == 0


def test_one_that_somebody_else_owns_is_closed() -> None:
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    with pytest.raises(SystemCallError, match="VHOST_SET_OWNER"):
        VhostNet(fd, Recorded(fails="SET_OWNER"))
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, HostLacksError, "modprobe vhost_net"),
        (errno.ENXIO, HostLacksError, "modprobe vhost_net"),
        (errno.EACCES, NoPermissionError, "the group that may"),
        (errno.EMFILE, SystemCallError, "vhost=off"),
    ],
)
def test_one_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[PyvmmError], words: str
) -> None:
    def refuse(path: str, flags: int) -> int:
        assert flags & os.O_CLOEXEC
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(kind, match=words):
            open_vhost()
