# SPDX-License-Identifier: MIT
"""Control messages of a console with several ports, byte by byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.console import (
    MOST_WAITING,
    ConsoleFeature,
    ConsoleModel,
    PortDescription,
    port_of,
    receive_queue,
)
from pyvmm.errors import UsageError

PORTS = (
    PortDescription(""),
    PortDescription("one"),
    None,
    PortDescription("three"),
)


def message(port: int, event: int, value: int) -> bytes:
    return struct.pack("<IHH", port, event, value)


def all_of(model: ConsoleModel) -> list[bytes]:
    found = []
    while model.has_control:
        found.append(model.next_control())
    return found


def ready(*ports: PortDescription | None) -> ConsoleModel:
    model = ConsoleModel(ports or PORTS)
    assert model.accept(ConsoleFeature.MULTIPORT)
    model.take_control(message(0, 0, 1))
    return model


def test_queues_are_numbered_as_the_specification_has_them() -> None:
    model = ConsoleModel(PORTS)
    assert len(model.queue_sizes) == 10
    assert [receive_queue(port) for port in range(4)] == [0, 4, 6, 8]
    assert [port_of(queue) for queue in range(8)] == [0, 0, None, None, 1, 1, 2, 2]
    assert (model.kind, model.features) == (3, 2)
    assert model.config() == struct.pack("<HHII", 0, 0, 4, 0)
    model.write_config(8, b"A\0\0\0")
    assert model.config() == struct.pack("<HHII", 0, 0, 4, 0)


def test_a_driver_is_told_of_each_port_and_what_it_is() -> None:
    model = ready()
    assert all_of(model) == [message(port, 1, 1) for port in (0, 1, 3)]
    model.set_host_open(1, is_open=True)
    assert not model.has_control
    for port in (0, 1, 3):
        model.take_control(message(port, 3, 1))
    assert all_of(model) == [
        message(1, 7, 1) + b"one",
        message(1, 6, 1),
        message(3, 7, 1) + b"three",
    ]
    model.set_host_open(1, is_open=False)
    model.set_host_open(1, is_open=False)
    assert all_of(model) == [message(1, 6, 0)]


def test_a_port_is_open_when_the_driver_says_so() -> None:
    model = ready()
    told: list[int] = []
    model.on_guest_open = told.append
    assert not model.is_open(0)
    model.take_control(message(1, 6, 1))
    assert [model.is_open(port) for port in range(4)] == [False, True, False, False]
    model.take_control(message(1, 6, 0))
    assert not model.is_open(1)
    model.take_control(message(3, 6, 1))
    model.reset()
    assert told == [1, 1, 3, 3]
    assert not model.is_open(3)


def test_a_driver_of_one_port_has_port_0() -> None:
    model = ConsoleModel(PORTS)
    assert model.accept(0)
    assert model.is_open(0)
    assert not model.is_open(1)


def test_what_was_said_before_a_reset_is_forgotten() -> None:
    model = ready()
    model.take_control(message(1, 3, 1))
    model.set_host_open(1, is_open=True)
    assert model.has_control
    model.reset()
    assert not model.has_control
    assert model.next_control() == b""
    assert model.accept(ConsoleFeature.MULTIPORT)
    model.take_control(message(1, 3, 1))
    # Whoever had it on the host still has.
    assert all_of(model) == [message(1, 7, 1) + b"one", message(1, 6, 1)]


def test_a_saved_console_tells_what_has_become_of_its_ports() -> None:
    model = ready()
    all_of(model)
    for port in (1, 3):
        model.take_control(message(port, 3, 1))
        model.take_control(message(port, 6, 1))
        model.set_host_open(port, is_open=True)
    all_of(model)
    model.set_host_open(3, is_open=False)
    saved = model.save()
    other = ConsoleModel(PORTS)
    other.accept(ConsoleFeature.MULTIPORT)
    other.restore(saved)
    assert other.is_open(1)
    assert all_of(other) == [message(3, 6, 0), message(1, 6, 0)]


@given(
    sent=st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.builds(
                message, st.sampled_from([0, 1, 2, 3, 4, 2**32 - 1]),
                st.integers(0, 9), st.sampled_from([0, 1, 2, 0xFFFF]),
            ),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_any_messages_at_all(sent: list[bytes]) -> None:
    model = ConsoleModel(PORTS)
    model.accept(ConsoleFeature.MULTIPORT)
    for one in sent:
        if model.waits_for_driver:
            break
        model.take_control(one)
    answers = all_of(model)
    assert len(answers) <= MOST_WAITING + 3
    assert all(struct.unpack_from("<I", answer)[0] in (0, 1, 3) for answer in answers)
    model.restore(model.save())


@pytest.mark.parametrize("names", [["a", "a"], ["x" * 128], ["a/b"], ["a\0"], ["n"] * 32])
def test_names_that_no_program_could_find(names: list[str]) -> None:
    with pytest.raises(UsageError):
        ConsoleModel([PortDescription(name) for name in names])
