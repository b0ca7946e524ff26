# SPDX-License-Identifier: MIT
"""`ConsolePort`, the descriptors and the monitor, without a guest."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.machine.console import attach
from pyvmm.machine.console.monitor import PROMPT, Monitor
from pyvmm.machine.console.port import INPUT_LIMIT, OUTPUT_LIMIT, ConsolePort
from pyvmm.machine.console.streams import InputDescriptor, OutputDescriptor
from pyvmm.machine.ending import Requester
from pyvmm.machine.steering import MachineState

HANG = 240.0


def in_trio(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(HANG):
            await test()

    trio.run(limited)


# Output.


def test_output_comes_out_in_order() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(b"one ")
        port.append(b"two")
        assert (port.unread, port.total) == (7, 7)
        assert await port.receive() == b"one two"
        assert (port.unread, port.total) == (0, 7)
        port.append(b"last")
        port.end_output()
        assert await port.receive() == b"last"
        assert await port.receive() == b""
        assert await port.receive() == b""

    in_trio(test)


def test_receiver_is_woken_from_a_thread() -> None:
    async def test() -> None:
        port = ConsolePort()
        pieces = [bytes((number % 256,)) for number in range(2000)]

        def talk() -> None:
            for piece in pieces:
                port.append(piece)
            trio.from_thread.run_sync(port.end_output)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, talk)
            seen = b""
            while data := await port.receive():
                seen += data
        assert seen == b"".join(pieces)

    in_trio(test)


def test_full_port_makes_threads_wait_until_it_is_read() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(bytes(OUTPUT_LIMIT - 1))
        assert not port.is_full
        port.append(b"x")
        assert port.is_full
        waited = threading.Event()

        def wait() -> None:
            port.wait_for_room()
            waited.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not waited.wait(0.05)
        assert len(await port.receive()) == OUTPUT_LIMIT
        assert waited.wait(HANG)
        thread.join()
        assert not port.is_full

    in_trio(test)


def test_release_lets_waiting_threads_go_and_keeps_what_they_say() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(bytes(OUTPUT_LIMIT))
        thread = threading.Thread(target=port.wait_for_room)
        thread.start()
        port.release()
        thread.join(HANG)
        assert not thread.is_alive()
        port.wait_for_room()
        port.append(b"more")
        assert port.receive_nowait().endswith(b"more")

    in_trio(test)


def test_what_was_put_back_comes_first() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(b"cd")
        port.put_back(b"ab")
        port.put_back(b"")
        assert (port.unread, port.total) == (4, 2)
        assert await port.receive() == b"abcd"

    in_trio(test)


# Input.


class Fifo:
    """Somewhere for input to go, with room for `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def receive(self, data: bytes) -> int:
        taken = data[: self.room]
        self.taken += taken
        self.room -= len(taken)
        return len(taken)


def test_input_is_fed_as_there_is_room() -> None:
    async def test() -> None:
        port = ConsolePort()
        fifo = Fifo(3)
        port.connect(lambda: port.feed(fifo.receive))
        await port.send(b"ab")
        await port.send(b"cdef")
        port.end_input()
        assert fifo.taken == b"abc"
        assert not port.input_ended
        fifo.room = 100
        port.feed(fifo.receive)
        assert fifo.taken == b"abcdef"
        assert port.input_ended

    in_trio(test)


def test_sender_waits_for_the_guest() -> None:
    async def test() -> None:
        port = ConsolePort()
        fifo = Fifo(0)
        port.connect(lambda: port.feed(fifo.receive))
        await port.send(bytes(INPUT_LIMIT))
        with trio.move_on_after(0.05) as limit:
            await port.send(b"x")
        assert limit.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.send, b"y")
            await trio.testing.wait_all_tasks_blocked()
            fifo.room = 1000
            await trio.to_thread.run_sync(port.feed, fifo.receive)
        fifo.room = INPUT_LIMIT
        port.feed(fifo.receive)
        assert fifo.taken == bytes(INPUT_LIMIT) + b"y"

    in_trio(test)


def test_offer_never_waits_and_loses_the_rest() -> None:
    async def test() -> None:
        port = ConsolePort()
        fifo = Fifo(0)
        port.connect(lambda: port.feed(fifo.receive))
        port.offer(bytes(INPUT_LIMIT - 1))
        port.offer(b"xyz")
        port.offer(b"lost")
        fifo.room = 2 * INPUT_LIMIT
        port.feed(fifo.receive)
        assert fifo.taken == bytes(INPUT_LIMIT - 1) + b"x"

    in_trio(test)


# Descriptors.


def test_pipe_is_opened_anew_and_given_back() -> None:
    async def test() -> None:
        read_end, write_end = os.pipe()
        try:
            with OutputDescriptor(write_end) as output, InputDescriptor(read_end) as source:
                assert output.fd not in (write_end, read_end)
                assert os.get_blocking(write_end)
                assert os.get_blocking(read_end)
                assert await output.write_some(memoryview(b"hello")) == 5
                assert await source.read_some() == b"hello"
                owned = (output.fd, source.fd)
            for fd in owned:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)
            os.fstat(read_end)
        finally:
            os.close(read_end)
            os.close(write_end)

    in_trio(test)


def test_full_pipe_does_not_block_trio() -> None:
    async def test() -> None:
        read_end, write_end = os.pipe()
        try:
            with OutputDescriptor(write_end) as output:
                written = 0
                with trio.move_on_after(0.1) as limit:
                    while True:
                        written += await output.write_some(memoryview(bytes(1 << 20)))
                assert limit.cancelled_caught
                assert written > 0
                assert len(os.read(read_end, 1 << 20)) > 0
                assert await output.write_some(memoryview(b"x")) == 1
        finally:
            os.close(read_end)
            os.close(write_end)

    in_trio(test)


def test_reader_that_went_away_is_an_error_with_its_number() -> None:
    async def test() -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            with OutputDescriptor(write_end) as output, pytest.raises(SystemCallError) as caught:
                await output.write_some(memoryview(b"x"))
            assert caught.value.errno == 32
        finally:
            os.close(write_end)

    in_trio(test)


@pytest.mark.parametrize("path", ["/dev/null", __file__])
def test_what_never_blocks(path: str) -> None:
    async def test() -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            with InputDescriptor(fd) as source:
                data = await source.read_some()
                assert bool(data) is (path == __file__)
        finally:
            os.close(fd)

    in_trio(test)


def test_stdio_raises_no_group() -> None:
    async def test() -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        os.close(out_read)
        try:
            port = ConsolePort()
            port.append(b"x")
            with pytest.raises(SystemCallError):
                await attach.Stdio(in_read, out_write)(port)
            assert port.unread == 1  # put back
        finally:
            for fd in (in_read, in_write, out_write):
                os.close(fd)

    in_trio(test)


def test_stdio_that_is_cancelled_puts_back_what_nobody_took() -> None:
    async def test() -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        try:
            port = ConsolePort()
            port.append(bytes(OUTPUT_LIMIT))
            with trio.move_on_after(0.1):
                await attach.Stdio(in_read, out_write)(port)
            os.close(out_write)
            out_write = -1
            with os.fdopen(os.dup(out_read), "rb") as reader:
                passed_on = len(reader.read())
            assert passed_on > 0
            assert passed_on + port.unread == OUTPUT_LIMIT
        finally:
            for fd in (in_read, in_write, out_read, out_write):
                if fd >= 0:
                    os.close(fd)

    in_trio(test)


def test_discard_ends_the_input_and_takes_everything() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(b"lost")
        port.end_output()
        await attach.discard(port)
        assert port.unread == 0
        assert port.input_ended

    in_trio(test)


# The monitor.


class FakeControl:
    def __init__(self) -> None:
        self.state = MachineState.RUNNING
        self.ended: list[str] = []

    async def pause(self) -> None:
        self.state = MachineState.PAUSED

    def interrupt(self, detail: str, _requester: Requester) -> None:
        self.ended.append(detail)


class FakeMachine:
    """What the monitor asks of a machine."""

    def __init__(self) -> None:
        self.control = FakeControl()

    @property
    def vcpus(self) -> Any:
        raise InternalError("look at vCPU 0", "the guest has ended")


def typed(*pieces: bytes) -> tuple[bytes, str, FakeMachine]:
    """What of the keys gets to the guest, what the user sees, and the machine after it."""
    machine = FakeMachine()
    shown: list[str] = []
    monitor = Monitor(machine, shown.append)  # type: ignore[arg-type]
    passed = b""

    async def test() -> None:
        nonlocal passed
        for piece in pieces:
            passed += await monitor.keys(piece)

    in_trio(test)
    return passed, "".join(shown), machine


def test_keys_pass_through() -> None:
    assert typed(b"abc\x03\x00\xff")[:2] == (b"abc\x03\x00\xff", "")


def test_escape_cut_in_two() -> None:
    passed, _shown, machine = typed(b"a\x01", b"xb")
    assert passed == b"ab"
    assert len(machine.control.ended) == 1


def test_monitor_line_editing() -> None:
    _passed, shown, machine = typed(b"\x01c", b"stox\x7fp\r")
    assert machine.control.state is MachineState.PAUSED
    assert shown.endswith("stox\b \bp\n" + PROMPT)


def test_monitor_takes_no_end_of_keys() -> None:
    _passed, shown, machine = typed(b"\x01c", b"x" * 10000, b"\r", b"  info   status \r")
    assert f"unknown command: '{'x' * 256}'\n" in shown
    assert "VM status: running\n" in shown
    assert not machine.control.ended


def test_monitor_shows_no_control_characters() -> None:
    shown = typed(b"\x01c", b"a\x1b[2J\x07\xc3\xa9\xff\r")[1]
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


def test_monitor_opened_and_closed_within_one_piece() -> None:
    passed, _shown, machine = typed(b"a\x01cstop\r\x01cb")
    assert passed == b"ab"
    assert machine.control.state is MachineState.PAUSED


def test_monitor_tells_what_fails() -> None:
    shown = typed(b"\x01c", b"info registers\r")[1]
    assert "cannot look at vCPU 0: the guest has ended\n" + PROMPT in shown


def test_monitor_quit() -> None:
    assert typed(b"\x01cq\r")[2].control.ended == ["ended from the monitor (quit)"]


def test_a_cancelled_receive_takes_nothing() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await port.receive()
        assert scope.cancelled_caught
        assert port.unread == 4
        assert await port.receive() == b"kept"

    in_trio(test)


def test_room_is_waited_for_until_something_is_taken() -> None:
    async def test() -> None:
        port = ConsolePort()
        port.append(bytes(OUTPUT_LIMIT))
        with trio.move_on_after(0.02) as scope:
            await port.room()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(port.room)
            await trio.testing.wait_all_tasks_blocked()
            assert await port.receive()

    in_trio(test)
