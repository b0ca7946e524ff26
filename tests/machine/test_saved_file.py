# SPDX-License-Identifier: MIT
"""Saved machines in files: whole or refused, and never more than values of known kinds."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import pyvmm
from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.stateless import Stateless
from pyvmm.errors import UsageError
from pyvmm.machine import saved_file
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice, ExitPortPlace
from pyvmm.machine.hardware import (
    DescriptorNet,
    Disk,
    Hardware,
    MemoryPolicy,
    NetCard,
    NumaNode,
    TapNet,
    UserNet,
)
from pyvmm.machine.raw_flags import RawFlags
from pyvmm.machine.running import open_machine
from pyvmm.machine.saved_encoding import codec
from pyvmm.machine.saved_machine import SavedMachine
from pyvmm.memory.layout import MIB

from .guests import SPIN, bundled
from .test_saved_machine import HANG, HOSTS, OFTEN, hear, saved_now, within

START = struct.Struct("<32sQQ")
MODEL = MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL, irqchip=IrqchipPolicy.ON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "saved"


@cache
def saved_model() -> SavedMachine:
    return within(MODEL, saved_now)


@cache
def content_on(host: HostChoice, folder: Path) -> bytes:
    made = folder / host.value
    within(replace(MODEL, host=host), saved_now).to_file(made)
    return made.read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return content_on(HostChoice.MODEL, tmp_path_factory.getbasetemp())


def sealed(header: Any, blobs: bytes) -> bytes:
    """A file with that header, as nobody but who knows the format can make it."""
    text = json.dumps(header).encode()
    size = START.size + len(text) + len(blobs) + 32
    body = START.pack(b"pyvmm saved machine 1\n", len(text), size) + text + blobs
    return body + hashlib.sha256(body).digest()


def opened(content: bytes) -> tuple[Any, bytes]:
    """The header of a file, and its blobs."""
    _, size, _ = START.unpack_from(content)
    return json.loads(content[START.size :][:size]), content[START.size + size : -32]


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(saved_file.SavedFileError) as caught:
        SavedMachine.from_file(path)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    assert len(said) < 300
    return said


@pytest.mark.parametrize("host", HOSTS)
def test_a_machine_goes_on_from_a_file(host: HostChoice, path: Path) -> None:
    devices = DeviceChoice(exit_ports=(ExitPortPlace(0x501, 2),))
    config = MachineConfig(
        bundled("echo"), memory=8 * MIB, host=host, devices=devices, irqchip=IrqchipPolicy.ON,
        initrd=b"some", timeout=HANG,
    )  # fmt: skip

    async def first(machine: pyvmm.Machine) -> SavedMachine:
        machine.control.resume()
        await machine.console.send(b"one")
        await hear(machine, b"one")
        return await machine.control.save()

    saved = within(config, first)
    path.write_bytes(b"what was there")
    saved.to_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*path.parent.iterdir()] == [path]
    read = SavedMachine.from_file(str(path))
    assert read == saved

    async def second() -> None:
        with trio.fail_after(HANG):
            async with open_machine(read.config, saved=read) as machine:
                await machine.console.send(b"two")
                await hear(machine, b"two")

    trio.run(second)


@given(data=st.data())
def test_a_file_that_is_cut_or_damaged_is_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(content) - 1), "at")
    change = data.draw(st.sampled_from(["cut", "flip", "double", "put"]), "change")
    match change:
        case "cut":
            broken = content[:at]
        case "flip":
            bit = 1 << data.draw(st.integers(0, 7), "bit")
            broken = content[:at] + bytes((content[at] ^ bit,)) + content[at + 1 :]
        case "double":
            broken = content[:at] + content[at:] + content[at:]
        case _:
            put = data.draw(st.binary(min_size=1, max_size=40).filter(any), "put")
            broken = content[:at] + put + content[at:]
    refusal(tmp_path_factory.getbasetemp() / "broken", broken)


PLACES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=4,
)


def leaves(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that a JSON value consists of, itself included."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = [*value.items()]
    if isinstance(value, list):
        inner = [*enumerate(value)]
    return [way, *(found for key, one in inner for found in leaves(one, (*way, key)))]


def changed(value: Any, way: tuple[Any, ...], instead: Any) -> Any:
    if not way:
        return instead
    copy = dict(value) if isinstance(value, dict) else [*value]
    copy[way[0]] = changed(value[way[0]], way[1:], instead)
    return copy


# As few as moves in the lab, where a machine takes a second to make.
@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
@settings(max_examples=min(OFTEN, settings().max_examples))
@given(data=st.data())
def test_a_file_that_somebody_has_made_up_gives_a_line_or_a_machine(
    host: HostChoice, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, blobs = opened(content_on(host, tmp_path_factory.getbasetemp()))
    way = data.draw(st.sampled_from(leaves(header)), "way")
    instead = data.draw(PLACES | st.sampled_from([0, 1, 255, 1 << 32, 1 << 63, -1]), "instead")
    if data.draw(st.booleans(), "another blob"):
        at = data.draw(st.integers(0, len(blobs)), "at")
        noise = data.draw(st.binary(max_size=64), "noise")
        blobs = blobs[:at] + noise + blobs[at + len(noise) :]
    file = tmp_path_factory.getbasetemp() / "made up"
    file.write_bytes(sealed(changed(header, way, instead), blobs))
    try:
        read = SavedMachine.from_file(file)
        assert isinstance(read, SavedMachine)
        config = replace(MODEL, host=host, timeout=HANG)
        within(config, lambda machine: machine.control.restore(read))
    except pyvmm.PyvmmError as refused:
        assert "\n" not in str(refused)
        assert not isinstance(refused, pyvmm.InternalError), refused


def test_what_is_wrong_is_said(content: bytes, path: Path) -> None:
    header, blobs = opened(content)
    assert "no file that a machine was saved to" in refusal(path, b"")
    assert "no file that a machine was saved to" in refusal(path, b"\x7fELF" + bytes(100))
    assert "no file that a machine was saved to" in refusal(path, content[:30])
    newer = content.replace(b"machine 1\n", b"machine 2\n", 1)
    assert "its format is '2', and this pyvmm reads '1'" in refusal(path, newer)
    assert "it was cut or added to" in refusal(path, content[:-1])
    assert "it is damaged" in refusal(path, content[:-1] + bytes((content[-1] ^ 1,)))
    assert "bytes that belong to nothing" in refusal(path, sealed(header, blobs + b"x"))
    assert "bytes left where a value has" in refusal(path, sealed(header, blobs[:-1]))
    older = sealed({**header, "pyvmm": "0.0.1"}, blobs)
    assert "pyvmm '0.0.1' wrote it, and this is " in refusal(path, older)
    assert "its header has not the fields" in refusal(path, sealed([], blobs))
    assert "its header: " in refusal(path, _with_text(b"{"))
    assert "its header: " in refusal(path, _with_text(b"\xff"))
    assert "NaN is no number" in refusal(path, _with_text(b'{"pyvmm": NaN, "saved": 0}'))
    assert "its header: " in refusal(path, _with_text(b"[" * 100_000))
    assert "its header: " in refusal(path, _with_text(b"9" * 5000))
    where = ("saved", "devices", 0, 1, "is")
    other = sealed(changed(header, where, "Popen"), blobs)
    assert "'Popen' is no kind of value to be there" in refusal(path, other)
    twice = sealed(changed(header, ("saved", "vm", "is"), "SavedUart"), blobs)
    assert "'SavedUart' is no kind of value to be there" in refusal(path, twice)
    huge = sealed(changed(header, ("saved", "config", "memory"), 1 << 200), blobs)
    assert "cannot " in refusal(path, huge)


def _with_text(text: bytes) -> bytes:
    size = START.size + len(text) + 32
    body = START.pack(b"pyvmm saved machine 1\n", len(text), size) + text
    return body + hashlib.sha256(body).digest()


def test_a_header_without_end_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_file, "MOST_HEADER", 10)
    assert "its header does not fit" in refusal(path, _with_text(b" " * 11))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pyvmm.NoInputError, match="no such file"):
        SavedMachine.from_file(tmp_path / "nowhere")
    with pytest.raises(pyvmm.NoInputError, match="it is "):
        SavedMachine.from_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for no_file in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(pyvmm.NoInputError, match="no regular file"):
            SavedMachine.from_file(no_file)
    with pytest.raises(pyvmm.NoInputError, match="null"):
        SavedMachine.from_file("a\0b")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, path: Path) -> None:
    saved = saved_model()
    with pytest.raises(pyvmm.NoInputError, match="no such file or folder"):
        saved.to_file(tmp_path / "nowhere" / "saved")
    path.mkdir()
    with pytest.raises(pyvmm.PyvmmError, match=r"cannot write a saved machine to .*directory"):
        saved.to_file(path)
    assert [*tmp_path.iterdir()] == [path]


def test_devices_of_the_user_s_are_in_no_file(path: Path) -> None:
    added = DeviceChoice(added=(lambda _: PlacedDevice("mine", Stateless(), ()),))
    saved = within(replace(MODEL, devices=added), saved_now)
    with pytest.raises(pyvmm.UsageError, match="it has a function, which cannot be written"):
        saved.to_file(path)
    assert not path.exists()


def test_hardware_is_in_a_file_unless_it_names_files_of_the_host_s(path: Path) -> None:
    saved = saved_model()
    node = NumaNode(2 * MIB, (0,), MemoryPolicy.BIND, (0, 1))
    for plain in (Hardware(acpi=False), Hardware(nodes=(node,))):
        config = replace(saved.config, hardware=plain)
        replace(saved, config=config).to_file(path)
        assert pyvmm.SavedMachine.from_file(path).config == config
        path.unlink()
    hardware = Hardware(disks=(Disk(Path("disk.img")),))
    with pytest.raises(pyvmm.UsageError, match="it has a PosixPath, which cannot be written"):
        replace(saved, config=replace(saved.config, hardware=hardware)).to_file(path)
    for wire in (TapNet("tap0"), UserNet(), DescriptorNet((3,))):
        hardware = Hardware(cards=(NetCard(wire),))
        with pytest.raises(pyvmm.UsageError, match=f"it has a {type(wire).__name__}, which cannot"):
            replace(saved, config=replace(saved.config, hardware=hardware)).to_file(path)
    assert not path.exists()


def test_a_state_that_fits_no_machine_changes_none() -> None:
    saved = saved_model()

    async def refused(machine: pyvmm.Machine) -> None:
        vcpu = replace(saved.vcpus[0], index=7)
        with pytest.raises(pyvmm.UsageError, match="a vCPU twice"):
            await machine.control.restore(replace(saved, vcpus=(vcpu,)))
        far = replace(saved.memory[0], gpa=1 << 40)
        with pytest.raises(pyvmm.UsageError, match="at gpa 0x10000000000, where there is no RAM"):
            await machine.control.restore(replace(saved, memory=(*saved.memory, far)))
        assert machine.control.ending is None
        await machine.control.restore(saved)

    within(MODEL, refused)


def test_flags_without_a_name_are_kept_and_have_as_many_bits_as_the_kernel_s() -> None:
    config = MachineConfig(bundled("echo"), raw_flags=RawFlags(1 << 63, 1 << 31))
    blobs: list[bytes] = []

    def put(data: bytes) -> int:
        blobs.append(data)
        return len(blobs) - 1

    written = codec([]).written(config, put)
    assert codec([]).read(MachineConfig, written, blobs.__getitem__) == config
    for flags in (RawFlags(1 << 64, 0), RawFlags(-1, 0), RawFlags(0, 1 << 32), RawFlags(0, -1)):
        with pytest.raises(UsageError, match="flags"):
            replace(config, raw_flags=flags)
