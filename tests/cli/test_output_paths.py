# SPDX-License-Identifier: MIT
"""No output of a command is one of its inputs, by whatever name, and no two are one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.cli.main import main
from pyvmm.cli.output_paths import NamedFile, refuse_to_overwrite, write_output
from pyvmm.errors import UsageError
from pyvmm.machine.console.output_file import OutputFile

from . import flat


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an image, an initial RAM disk, and a file that is neither."""
    monkeypatch.chdir(tmp_path)
    Path("image").write_bytes(flat.exiting(3))
    Path("initrd").write_bytes(b"a RAM disk")
    Path("other").write_bytes(b"precious")
    return tmp_path


def as_it_is(path: str) -> str:
    return path


def hard_link(path: str) -> str:
    Path("hard").hardlink_to(path)
    return "hard"


def symbolic_link(path: str) -> str:
    Path("soft").symlink_to(Path(path).absolute())
    return "soft"


def with_a_dot(path: str) -> str:
    return f"./{path}"


def by_the_folder_above(path: str) -> str:
    return f"../{Path.cwd().name}/{path}"


NAMES = (as_it_is, hard_link, symbolic_link, with_a_dot, by_the_folder_above)


@contextmanager
def by_descriptor(path: str) -> Iterator[str]:
    with open(path, "rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


RUN_OUTPUTS: tuple[Callable[[str], list[str]], ...] = (
    lambda path: ["--json", path],
    lambda path: ["--console", f"file:{path}"],
    lambda path: ["--console", f"unix:{path}"],
    lambda path: ["--qmp", f"unix:{path}"],
)


@pytest.mark.parametrize("name", [*NAMES, by_descriptor])
@pytest.mark.parametrize("victim", ["image", "initrd"])
@pytest.mark.parametrize("output", RUN_OUTPUTS)
def test_run_leaves_its_inputs_alone(
    output: Callable[[str], list[str]],
    victim: str,
    name: Callable[..., object],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    named = name(victim)
    before = contents(folder)
    with nullcontext(named) if isinstance(named, str) else named as path:  # type: ignore[attr-defined]
        code = main(["run", "image", "--initrd", "initrd", *output(path)])
    err = capfd.readouterr().err
    assert (code, err.count("\n")) == (64, 1), err
    assert "it is the i" in err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json", "other", "--console", "file:./other"], "the guest's console would go there"),
        (["--json", "new", "--console", "file:./new"], "the guest's console would go there"),
        (["--qmp", "unix:new", "--console", "unix:./new"], "the guest's console would go there"),
        (["--json", "new", "--qmp", "unix:new"], "the socket for QMP clients would go there"),
        (["--json", "dangling", "--console", "file:new"], "the guest's console would go there"),
    ],
)
def test_two_outputs_of_a_run(
    arguments: list[str], says: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("dangling").symlink_to("new")
    before = contents(folder)
    code = main(["run", "image", *arguments])
    err = capfd.readouterr().err
    assert (code, err.count("\n")) == (64, 1), err
    assert says in err
    assert contents(folder) == before


def test_a_socket_is_made_and_not_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "image", "--qmp", "unix:image"]) == 64
    assert capfd.readouterr().err == (
        "pyvmm: cannot make the socket for QMP clients at image: it is the image, image; "
        "name another file\n"
    )


def test_a_bundled_guest_is_an_input(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guest = bundled_guests.find("hello")
    assert guest is not None
    before = guest.path.read_bytes()
    Path("copy").symlink_to(guest.path)
    assert main(["run", "hello", "--json", "copy"]) == 64
    assert "it is the image" in capfd.readouterr().err
    assert guest.path.read_bytes() == before


def test_what_several_may_use(folder: Path) -> None:
    read_end, write_end = os.pipe()
    pipe, null = Path(f"/dev/fd/{write_end}"), Path("/dev/null")
    try:
        for place in (pipe, null):
            refuse_to_overwrite([NamedFile("one", place), NamedFile("two", place)], [])
        refuse_to_overwrite([NamedFile("one", null)], [NamedFile("other", null)])
        with pytest.raises(UsageError):
            refuse_to_overwrite([NamedFile("one", pipe)], [NamedFile("other", pipe)])
        # Standard streams of one terminal or pipe, or of one file: who started us wanted that.
        refuse_to_overwrite([NamedFile("one", write_end), NamedFile("two", write_end)], [])
        with open("other") as file:
            both = [NamedFile("one", file.fileno()), NamedFile("two", file.fileno())]
            refuse_to_overwrite(both, [])
            with pytest.raises(UsageError, match="cannot write to one: it is the image, other"):
                refuse_to_overwrite(both, [NamedFile("the image", Path("other"))])
            with pytest.raises(UsageError, match="cannot write x to other: one would go there"):
                refuse_to_overwrite([NamedFile("x", Path("other")), both[0]], [])
    finally:
        os.close(read_end)
        os.close(write_end)


def test_other_paths_are_other_files(folder: Path) -> None:
    Path("sub").mkdir()
    names = ["new", "sub/new", "other", "sub/other", "new2", "x" * 5000, "nul\0"]
    outputs = [NamedFile(name, Path(name)) for name in names]
    refuse_to_overwrite(outputs, [NamedFile("the image", Path("image"))])
    assert not Path("new").exists()


def test_text_that_is_none_is_escaped(folder: Path) -> None:
    with OutputFile(Path("other"), "write") as file:
        write_output(file, "a\udcffb\n", "write")
    assert Path("other").read_bytes() == b"a\\udcffb\n"


def saved_story(folder: Path) -> Path:
    """The only story of a small universe, saved by ``explore``."""
    options = ["--universe", "small", "--design", "memslot-pins-file", "--save", str(folder)]
    assert main(["lifetime", "explore", *options]) == 0
    return min(folder.iterdir())


@pytest.mark.slow
def test_what_lifetime_reads_and_writes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story = saved_story(folder / "stories")
    before = story.read_bytes()
    Path("link").symlink_to(story)
    assert main(["lifetime", "show", str(story), "--svg", "link"]) == 64
    assert "cannot write the drawing to link: it is the story" in capfd.readouterr().err
    explore = ["lifetime", "explore", "--universe", "small", "--design", "memslot-pins-file"]
    assert main([*explore, "--save", "stories", "--json", "link"]) == 64
    assert "what was found would go there, too" in capfd.readouterr().err
    assert main([*explore, "--json", "no/where"]) == 64
    assert main(["lifetime", "show", "no-such.json", "--svg", "drawing"]) == 66
    assert not Path("drawing").exists()
    assert story.read_bytes() == before
    assert main(["lifetime", "show", str(story), "--svg", "drawing"]) == 0
    assert "<svg" in Path("drawing").read_text()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["show", "rebind-after-free", "--svg", "/dev/full"], "No space left on device"),
        (["explore", "--universe", "small", "--json", "/dev/full"], "No space left on device"),
        (["explore", "--universe", "small", "--save", "image"], "File exists"),
    ],
    ids=lambda value: value[2] if isinstance(value, list) else "",
)
def test_a_file_that_cannot_be_written_does_not_take_the_answer_with_it(
    arguments: list[str], cause: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["lifetime", *arguments]) == 71
    out, err = capfd.readouterr()
    assert "vm0" in out
    assert err.splitlines()[-1].startswith("pyvmm: cannot ")
    assert err.endswith(f": {cause}\n")


@pytest.mark.parametrize(
    "arguments", [["run", "image"], ["measure", "image"], ["run", "image", "--host", "lab"]]
)
def test_standard_output_is_an_output(
    arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = os.dup(1)
    try:
        with open("image", "ab") as file:
            os.dup2(file.fileno(), 1)
            code = main(arguments)
    finally:
        os.dup2(before, 1)
        os.close(before)
    assert (code, Path("image").read_bytes()) == (64, flat.exiting(3))
    assert capfd.readouterr().err.endswith("it is the image, image; send it elsewhere\n")
