# SPDX-License-Identifier: MIT
"""A machine outside for passt: a network namespace with an address and a default route."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pyvmm.net.namespaces import new_namespace, within

ADDRESS = "10.9.0.1"
GATEWAY = "10.9.0.254"


@contextmanager
def outside() -> Iterator[int]:
    """Make it; its descriptor. Nothing of it is left afterwards."""
    fd = new_namespace()
    try:
        within(fd, _set_up)
        yield fd
    finally:
        os.close(fd)


def _set_up() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = partial(lambda name: route.link_lookup(ifname=name)[0])
        route.link("set", index=index("lo"), state="up")
        route.link("add", ifname="out", kind="veth", peer={"ifname": "far"})
        for name in ("out", "far"):
            route.link("set", index=index(name), state="up")
        route.addr("add", index=index("out"), address=ADDRESS, prefixlen=24)
        route.route("add", dst="default", gateway=GATEWAY)
