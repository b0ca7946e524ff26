# SPDX-License-Identifier: MIT
"""``pyvmm lifetime`` as its users run it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom import minidom

import pytest

from .command import Outcome, pyvmm

pytestmark = pytest.mark.slow


def lifetime(*arguments: str | Path) -> Outcome:
    return pyvmm("lifetime", *arguments)


def text(outcome: Outcome) -> str:
    assert "cannot" not in outcome.err, outcome.err
    return outcome.out.decode()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories")
    done = lifetime("explore", "--universe", "small", "--save", folder)
    assert done.code == 0, done.err
    return folder


def test_explore_says_what_holds_and_ends_with_0_whatever_it_finds() -> None:
    done = lifetime("explore", "--universe", "small")
    assert done.code == 0
    told = text(done)
    assert "file-pins-vm: 95 states, 706 transitions" in told
    assert "closing-is-harmless: does NOT hold; the shortest story:" in told
    assert "  1. parent: create vm0" in told
    assert told.count("does NOT hold") == 4
    assert "memory-dies-with-its-vm: does NOT hold; the shortest story:" in told


def test_explore_as_json(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = lifetime("explore", "--universe", "small", "--remedy", "owner-in-inode", "--json", file)
    assert done.code == 0
    found = json.loads(file.read_text())
    (design,) = found["designs"]
    assert design["design"] == "memslot-pins-file + owner-in-inode"
    lacking = [name for name, holds in design["holds"].items() if not holds]
    assert lacking == ["memory-dies-with-its-vm"]
    assert design["transitions"] == sum(design["operations"].values())
    printed = lifetime("explore", "--universe", "small", "--json", "-")
    assert len(json.loads(printed.out)["designs"]) == 2


def test_interleaving_says_what_it_covered_and_finds_what_a_lock_is_for() -> None:
    options = ("explore", "--interleave", "2", "--design", "memslot-pins-file")
    whole = text(lifetime(*options))
    assert "covered: " in whole
    assert "no harm in any order" in whole
    broken = text(lifetime(*options, "--drop", "invalidate-lock"))
    assert "a shortest schedule:" in broken
    assert "no harm" not in broken


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "required"),
        (("explore", "--design", "none"), "'none'"),
        (("explore", "--design", "file-pins-vm + hope"), "'file-pins-vm + hope'"),
        (("explore", "--remedy", "hope"), "'hope'"),
        (("explore", "--universe", "vms=0"), "vms is 0"),
        (("explore", "--universe", "vms=9999999999"), "NAME=NUMBER"),
        (("explore", "--interleave", "4"), "2 or 3"),
        (("explore", "--drop", "slots-lock"), "--interleave"),
        (("explore", "--interleave", "2", "--drop", "hope"), "'hope'"),
        (("show", "nothing-of-the-kind"), "no such scenario"),
        (("show", "--svg", "x"), "no scenario"),
        (("replay", "--count", "0"), "1 or more"),
        (("attack", "--vms", "0"), "1 or more"),
        (("attack", "--remedy", "hope"), "'hope'"),
        (("attack", "--remedy", "never-rebind", "--each-remedy"), "one or the other"),
        (("report", "--check"), "none is given"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line_and_64(arguments: tuple[str, ...], word: str) -> None:
    done = lifetime(*arguments)
    assert done.code == 64
    (line,) = done.lines
    assert word in line


_NUMBERS = ("vms", "files", "slots", "pages", "processes", "handles", "secrets")
_UNIVERSE: dict[str, object] = {"name": "x", "links": False, **dict.fromkeys(_NUMBERS, 1)}


def _story(**changes: object) -> bytes:
    story: dict[str, object] = {
        "format": "pyvmm lifetime story 1",
        "design": "file-pins-vm",
        "universe": _UNIVERSE,
        "about": "",
        "steps": [],
        "ending": "",
    }
    return json.dumps(story | changes).encode()


_STEP = {"operation": {"kind": "bind", "process": 0, "vm": 9, "file": 0, "slot": 0, "page": 0}}
BROKEN = {
    "empty": b"",
    "no JSON": b"\x00\xff{",
    "deep": b"[" * 100_000,
    "another JSON": b'{"a": 1}',
    "a number": b"7",
    "no steps": _story(steps=None),
    "a step of nothing": _story(steps=[7]),
    "an unknown VM": _story(steps=[_STEP | {"outcome": "ok", "faults": []}]),
    "a huge universe": _story(universe=_UNIVERSE | {"vms": 10**9}),
    "a universe of words": _story(universe=_UNIVERSE | {"vms": "two"}),
    "half a universe": _story(universe={"vms": 1}),
    "an unknown design": _story(design="hope"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("command", ["replay", "show"])
def test_a_broken_story_is_one_line_and_64(command: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "story.json"
    file.write_bytes(BROKEN[what])
    done = lifetime(command, file)
    assert done.code == 64, done.err
    assert len(done.lines) == 1


@pytest.mark.parametrize("command", ["replay", "show"])
def test_no_story_there_is_66(command: str, tmp_path: Path) -> None:
    for missing in (tmp_path / "no.json", tmp_path):
        done = lifetime(command, missing)
        assert done.code == 66, done.err
        assert len(done.lines) == 1


def test_show_lists_draws_and_writes_a_picture(tmp_path: Path, saved: Path) -> None:
    names = [line.split()[0] for line in text(lifetime("show")).splitlines()]
    assert "fork-keeps-vm" in names
    picture = tmp_path / "a.svg"
    drawn = text(lifetime("show", names[0], "--svg", picture))
    assert "file-pins-vm" in drawn
    assert "memslot-pins-file" in drawn
    assert minidom.parse(str(picture)).documentElement is not None
    assert "memslot" not in text(lifetime("show", names[0], "--design", "file-pins-vm"))
    for file in sorted(saved.iterdir()):
        assert "1. parent: create" in text(lifetime("show", file))
        story = json.loads(file.read_text())
        own = ("--design", story["design"].split(" + ")[0])
        assert f"   => {story['ending']}\n" in text(lifetime("show", file, *own, "--svg", picture))
        assert f">{story['about']}: {story['design']}</text>" in picture.read_text()


def test_the_documents_pictures_are_written_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    assert lifetime("pictures", "--check", folder).code == 66
    assert not folder.exists()
    assert (
        text(lifetime("pictures", folder))
        == f"{len(list(folder.iterdir()))} pictures in {folder}\n"
    )
    assert text(lifetime("pictures", "--check", folder)) == "as made now\n"
    (folder / "contents-stay.svg").write_text("<svg/>")
    differs = lifetime("pictures", "--check", folder)
    assert (differs.code, text(differs)) == (1, "contents-stay.svg is not what is made now\n")
    (tmp_path / "file").touch()
    assert lifetime("pictures", tmp_path / "file").code == 71


def test_a_picture_in_no_folder_is_64(tmp_path: Path) -> None:
    done = lifetime("show", "exit", "--svg", tmp_path / "no" / "a.svg")
    assert done.code == 64
    assert len(done.lines) == 1


@pytest.mark.kvm
def test_saved_stories_can_be_replayed(saved: Path) -> None:
    files = sorted(saved.iterdir())
    assert len(files) == 5
    done = lifetime("replay", "--json", *files)
    assert done.code == 0, done.err + done.out.decode()
    found = json.loads(done.out)
    assert [result["differences"] for result in found["results"]] == [[]]
    assert found["results"][0]["sequences"] == len(files)


@pytest.mark.kvm
def test_replay_takes_every_transition_and_says_how_many() -> None:
    done = lifetime("replay", "--universe", "small")
    assert done.code == 0, done.err + done.out.decode()
    told = text(done)
    assert "704 of 704 transitions taken" in told
    assert told.splitlines()[-1] == "differences: none"
    some = text(lifetime("replay", "--universe", "small", "--count", "3"))
    assert "small: 3 sequences" in some
    assert "not all sequences done" in some


@pytest.mark.kvm
def test_attacks_on_this_kernel_are_stopped() -> None:
    told = text(lifetime("attack", "--vms", "2"))
    assert "another VM binds the file, the last of 2 that try: EINVAL" in told
    assert "REACHED" not in told
    found = json.loads(text(lifetime("attack", "--json")))
    assert found["design"] == "file-pins-vm"
    rebinding, looking_in = found["attempts"]
    assert (rebinding["attack"], looking_in["attack"]) == ("rebinding", "looking-in")
    assert rebinding["steps"][-1] == {"step": "another VM binds the file", "answer": "EINVAL"}
    assert not rebinding["reached"] and not looking_in["reached"]


@pytest.mark.kvm
def test_remedies_of_another_kernel_are_not_there() -> None:
    for options in (("--each-remedy",), ("--remedy", "zero-at-unbinding")):
        done = lifetime("attack", *options)
        assert done.code == 69
        (line,) = done.lines
        assert "pyvmm lab build --with memslot-pins-file" in line
