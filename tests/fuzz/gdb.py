# SPDX-License-Identifier: MIT
"""GDB's protocol: what a client sends, bytes as they come, to a session over a made-up machine."""

from __future__ import annotations

from pyvmm.gdb.packets import LONGEST, BrokenPacketError, PacketReader, packet
from pyvmm.gdb.session import Session
from tests.gdb.test_session import Fake, ask

from .target import Target

_TALK = (
    b"qSupported:swbreak+", b"QStartNoAckMode", b"qXfer:features:read:target.xml:0,ffb", b"?",
    b"g", b"p10", b"P0=0100000000000000", b"m1000,40", b"M1000,1:90", b"X1000,1:\x90", b"x1000,4",
    b"Z1,1000,1", b"z1,1000,1", b"vCont;s:1;c", b"Hg2", b"T1", b"qfThreadInfo", b"qRcmd,696e",
)  # fmt: skip


def one(data: bytes) -> None:
    """All at once."""
    session = Session(Fake())
    try:
        for item in PacketReader().feed(data):
            if isinstance(item, bytes):
                answer = ask(session, item)
                assert answer.packets or answer.then is not None
                assert all(len(part) <= LONGEST for part in answer.packets)
    except BrokenPacketError as error:
        assert str(error)


TARGET = Target(one, [*map(packet, _TALK), b"+\x03-".join(map(packet, _TALK))], most=1 << 12)
