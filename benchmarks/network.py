# SPDX-License-Identifier: MIT
"""A guest on a tap, under pyvmm and under QEMU, in one lab: streams, pings, small packets.

The guest, its driver and the tap are the same for all; the host's side is network.c.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks import baselines, in_lab
from benchmarks.figures import Sample, Target, at_least, at_most
from benchmarks.linux_console import Console
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm import bundled_guests

NAME = "network"
TITLE = "a guest on a tap, under pyvmm and QEMU with KVM, with and without vhost-net, in one lab"
RUNS = 5

_TAP = "bench0"
_STATION, _GUEST = "10.77.0.1", "10.77.0.2"
_APPEND = f"ip={_GUEST}/24 msix=1 buffers=256"
_READY, _END = b", gateway ", b" dropped"
_MIB, _PINGS, _PACKETS = 64, 1000, 50_000
_PATIENCE = 300.0
"""Seconds for one guest and what is asked of it."""
_QEMU = (
    "qemu-system-x86_64", "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults",
    "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
    "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
    "-device", "virtio-net-pci,disable-legacy=on,modern-pio-notify=on,romfile=,netdev=net0",
)  # fmt: skip
_PLAIN, _VHOST = ("QEMU", "pyvmm"), ("QEMU, vhost", "pyvmm, vhost")
_PLAIN_TARGETS = {
    "to_guest_mib_per_s": at_least(0.7),
    "from_guest_mib_per_s": at_least(0.7),
    "ping_us": at_most(1.3),
    "packets_to_guest_per_s": at_least(0.5),
    "packets_from_guest_per_s": at_least(0.5),
}
_VHOST_TARGETS: dict[str, Target | None] = {
    "to_guest_mib_per_s": at_least(0.95),
    "from_guest_mib_per_s": at_least(0.95),
    "ping_us": at_most(1.3),
    "packets_to_guest_per_s": None,
    "packets_from_guest_per_s": None,
}


def run(effort: Effort, step: Step) -> Result:
    """Measure all in one lab, in turns."""
    peer = str(baselines.compiled("network"))
    image = bundled_guests.find("net")
    if image is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    with in_lab.lab_up() as env:
        _inside([peer, "up", _TAP, _STATION], env)
        amounts = [effort.scaled(amount) for amount in (_MIB, _PINGS, _PACKETS)]
        measure = [peer, "measure", _GUEST, *map(str, amounts)]
        subjects = [
            Subject(name, " ".join(command[:4]), partial(_sample, command, measure, env))
            for name, command in commands(str(image.path)).items()
        ]
        samples = take_turns(subjects, effort, step)
    return Result(NAME, TITLE, subjects, samples, comparisons())


def commands(image: str) -> dict[str, Sequence[str]]:
    """Command lines that boot `image` in the lab, by the subjects' names."""
    found: dict[str, Sequence[str]] = {}
    for names, vhost in ((_PLAIN, "off"), (_VHOST, "on")):
        netdev = f"tap,id=net0,ifname={_TAP},script=no,downscript=no,vhost={vhost}"
        found[names[0]] = [*_QEMU, "-netdev", netdev, "-kernel", image, "-append", _APPEND]
        found[names[1]] = [
            in_lab.PYVMM, "run", image, "--net", f"tap={_TAP},vhost={vhost}", "--append", _APPEND,
        ]  # fmt: skip
    return found


def comparisons() -> list[Comparison]:
    """Pyvmm beside QEMU, with the same backend each."""
    return [
        Comparison(figure, names[1], names[0], target)
        for names, targets in ((_PLAIN, _PLAIN_TARGETS), (_VHOST, _VHOST_TARGETS))
        for figure, target in targets.items()
    ]


def _inside(command: Sequence[str], env: Mapping[str, str]) -> bytes:
    return in_lab.must([in_lab.PYVMM, "lab", "run", "--", *command], env)


def _sample(command: Sequence[str], measure: Sequence[str], env: Mapping[str, str]) -> Sample:
    """Boot a guest, and ask of it what is measured; it ends then."""
    guest = subprocess.Popen(
        [in_lab.PYVMM, "lab", "run", "--", *command],
        env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with guest:
        try:
            assert guest.stdout is not None
            console = Console(guest.stdout, _PATIENCE)
            console.wait_for(_READY)
            figures: Sample = json.loads(_inside(measure, env))
            console.wait_for(_END)
            console.wait_for_end()
        finally:
            guest.terminate()
    return figures
