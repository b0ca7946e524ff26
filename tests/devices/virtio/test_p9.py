# SPDX-License-Identifier: MIT
"""A 9P device's configuration, and its session through resets and saved state."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.devices.p9.session import Session
from pyvmm.devices.virtio.p9 import P9Model
from pyvmm.devices.virtio.saved import SavedShare
from pyvmm.errors import UsageError
from tests.machine.share.in_folders import client_of


def test_the_tag_is_the_configuration(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        model = P9Model("src", client.session)
        model.write_config(2, b"X")
        assert model.config() == b"\3\0src"
        assert (model.kind, model.features, model.queue_sizes) == (9, 1, (128,))
        for tag in ("", "x" * 32, "a\0"):
            with pytest.raises(UsageError, match="1 to 31 bytes"):
                P9Model(tag, client.session)


def files_of(session: Session) -> list[int]:
    return [state.fid for state in session.save()[1]]


def test_a_reset_and_a_saved_state_are_taken_up_before_the_next_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("contents")
    with client_of(tmp_path) as client:
        model = P9Model("src", client.session)
        fid = client.open(b"file")
        saved = model.save()
        assert [state.fid for state in saved.fids] == [0, fid]
        model.reset()
        # Not yet: a message may be under way.
        assert files_of(client.session) == [0, fid]
        assert model.save() == SavedShare(0, ())
        model.restore(saved)
        assert model.save() == saved
        model.reset()
        model.take_up()
        assert files_of(client.session) == []
        model.restore(saved)
        model.take_up()
        assert client.read(fid) == b"contents"
        model.take_up()
        assert client.read(fid) == b"contents"


def test_resets_that_no_message_follows_take_no_memory(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        model = P9Model("src", client.session)
        saved = model.save()
        for _ in range(1000):
            model.reset()
        model.restore(saved)
        assert len(model._wanted) == 1
        model.take_up()
        assert files_of(client.session) == [0]


def test_what_cannot_be_a_saved_session_is_refused() -> None:
    from pyvmm.devices.p9.fids import FidState

    for size, fids in (
        (-1, ()),
        (1 << 21, ()),
        (8192, (FidState(0, (b"..",), None),)),
        (8192, (FidState(0, (b"a/b",), None),)),
        (8192, (FidState(1 << 32, (), None),)),
    ):
        with pytest.raises(UsageError):
            SavedShare(size, fids)
