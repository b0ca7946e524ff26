# SPDX-License-Identifier: MIT
"""A reader of ACPI tables and of the AML that has data only, written from the specification."""

from __future__ import annotations

from collections.abc import Iterator

HEADER = 36


def table_at(memory: bytes, start: int, gpa: int) -> bytes:
    """The table at `gpa` of memory that begins at `start`; its checksum is right."""
    at = gpa - start
    size = int.from_bytes(memory[at + 4 : at + 8], "little")
    content = memory[at : at + size]
    assert len(content) == size
    if content[:4] != b"FACS":
        assert sum(content) & 0xFF == 0, content[:4]
    return content


def tables(memory: bytes, start: int) -> dict[bytes, bytes]:
    """Every table by its signature, found from the RSDP on, as a guest does."""
    rsdp = memory[:36]
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) & 0xFF == 0
    assert sum(rsdp) & 0xFF == 0
    assert rsdp[15] == 2
    xsdt = table_at(memory, start, int.from_bytes(rsdp[24:32], "little"))
    found = {b"XSDT": xsdt}
    for at in range(HEADER, len(xsdt), 8):
        one = table_at(memory, start, int.from_bytes(xsdt[at : at + 8], "little"))
        found[one[:4]] = one
    fadt = found[b"FACP"]
    for gpa in (fadt[36:40], fadt[140:148]):
        one = table_at(memory, start, int.from_bytes(gpa, "little"))
        found[one[:4]] = one
    return found


def entries(madt: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each entry of a MADT."""
    at = HEADER + 8
    while at < len(madt):
        kind, size = madt[at], madt[at + 1]
        assert size >= 2
        yield kind, madt[at : at + size]
        at += size
    assert at == len(madt)


Value = int | str | bytes | list["Value"] | dict[str, "Value"]


def read_aml(content: bytes) -> dict[str, Value]:
    """Names of a block: a value for each name, a dictionary for each scope and device."""
    found: dict[str, Value] = {}
    at = 0
    while at < len(content):
        if content[at] == 0x08:
            path, at = _path(content, at + 1)
            found[path], at = _value(content, at)
        else:
            at += 2 if content[at : at + 2] == b"\x5b\x82" else 1
            assert content[at - 1] in (0x10, 0x82), content[at - 1 :][:8]
            body, at = _package(content, at)
            path, inside = _path(body, 0)
            found[path] = read_aml(body[inside:])
    return found


def _package(content: bytes, at: int) -> tuple[bytes, int]:
    """What a PkgLength is of, and where it ends."""
    more = content[at] >> 6
    size = content[at] & (0x0F if more else 0x3F)
    for number in range(more):
        size |= content[at + 1 + number] << 4 + 8 * number
    assert at + size <= len(content)
    return content[at + 1 + more : at + size], at + size


def _path(content: bytes, at: int) -> tuple[str, int]:
    root = content[at : at + 1] == b"\\"
    at += root
    count = 1
    if content[at] == 0x2E:
        count, at = 2, at + 1
    elif content[at] == 0x2F:
        count, at = content[at + 1], at + 2
    names = [content[at + 4 * n : at + 4 * n + 4].decode() for n in range(count)]
    return "\\" * root + ".".join(names), at + 4 * count


def _value(content: bytes, at: int) -> tuple[Value, int]:
    kind = content[at]
    if kind in (0, 1):
        return kind, at + 1
    if kind in (0x0A, 0x0B, 0x0C, 0x0E):
        size = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}[kind]
        return int.from_bytes(content[at + 1 : at + 1 + size], "little"), at + 1 + size
    if kind == 0x0D:
        end = content.index(b"\0", at)
        return content[at + 1 : end].decode(), end + 1
    body, end = _package(content, at + 1)
    if kind == 0x11:
        length, inside = _value(body, 0)
        assert length == len(body) - inside
        return body[inside:], end
    assert kind == 0x12, kind
    values: list[Value] = []
    inside = 1
    while inside < len(body):
        value, inside = _value(body, inside)
        values.append(value)
    assert body[0] == len(values)
    return values, end
