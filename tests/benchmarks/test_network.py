# SPDX-License-Identifier: MIT
"""The benchmark of networks without its lab: its peer, and the guest that it boots."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial

import pytest

from benchmarks import baselines, network
from pyvmm import bundled_guests
from pyvmm.net.namespaces import new_namespace, within

FIGURES = {
    "ping_us",
    "to_guest_mib_per_s",
    "from_guest_mib_per_s",
    "packets_to_guest_per_s",
    "packets_from_guest_per_s",
}
ELSEWHERE = {"kvm": "tcg", "host": "qemu64"}
"""QEMU's options where there is no lab."""


def test_the_same_is_compared_with_and_without_vhost() -> None:
    commands = network.commands("net.img")
    for one in network.comparisons():
        assert one.figure in FIGURES
        assert {one.subject, one.baseline} <= commands.keys()
        assert ("vhost" in one.subject) == ("vhost" in one.baseline)
    assert len(network.comparisons()) == 2 * len(FIGURES)


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.parametrize("subject", [pytest.param("QEMU", marks=pytest.mark.qemu), "pyvmm"])
def test_the_peer_measures_a_guest(subject: str) -> None:
    peer, image = baselines.compiled("network"), bundled_guests.find("net")
    assert image
    command = [ELSEWHERE.get(word, word) for word in network.commands(str(image.path))[subject]]
    if subject == "pyvmm":
        command += ["--host", "model"]

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    namespace = new_namespace()
    try:
        within(namespace, partial(subprocess.run, [peer, "up", "bench0", "10.77.0.1"], check=True))
        with within(namespace, started) as guest:
            try:
                assert guest.stdout
                assert any(b", gateway " in line for line in guest.stdout)
                measure = [peer, "measure", "10.77.0.2", "1", "20", "300"]
                done = within(
                    namespace, partial(subprocess.run, measure, stdout=subprocess.PIPE, check=True)
                )
                figures = json.loads(done.stdout)
                assert figures.keys() == FIGURES
                assert min(figures.values()) > 0
                assert b"frames: " in guest.stdout.read()
            finally:
                guest.kill()
    finally:
        os.close(namespace)
