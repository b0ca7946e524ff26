# SPDX-License-Identifier: MIT
"""The KVM selftests of a lab kernel's own source, compiled into the cache.

    selftests/<name>-<key>/source/      what of the source they need, with the kernel's change
                           headers/     its uapi headers (make headers)
                           programs/    they, and their objects
                           make.log     of the last call

Of a user's tree nothing is copied, and nothing written into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import known_changes, packages
from pyvmm.lab.kernel import source as sources
from pyvmm.lab.kernel.cache import Cache, entry_key
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error
from pyvmm.lab.kernel.manifest import Kernel, Manifest
from pyvmm.lab.kernel.places import explain_space, require_plain
from pyvmm.lab.kernel.progress import Progress
from pyvmm.lab.kernel.source_editor import SourceEditor
from pyvmm.lab.kernel.work_tree import mark, remove_older_ones

FOLDER = "tools/testing/selftests/kvm"
MEMBERS = (
    "*/Makefile", "*/Kbuild", "*/Kconfig", "*/scripts", "*/usr", "*/lib",
    "*/include/uapi", "*/include/linux", "*/include/asm-generic", "*/arch/x86",
    "*/tools/build", "*/tools/include", "*/tools/scripts", "*/tools/lib", "*/tools/arch/x86",
    "*/tools/testing/selftests", "*/drivers/dma", "*/drivers/net/ethernet/intel",
)  # fmt: skip
"""Members of a kernel's archive that selftests are made of, or have symbolic links to."""

_NAME = re.compile(r"pyvmm-selftest (\S+)")
_LIST = "pyvmm-selftests:; $(foreach name,$(TEST_GEN_PROGS),$(info pyvmm-selftest $(name)))@:"
_COMPILED = re.compile(r"^\S*gcc .* -c ")
_OWN_FOLDERS = ("/tmp", "/var/tmp", "/run", "/dev/shm")
"""Folders that the lab has of its own."""


@dataclass(frozen=True, slots=True)
class BuiltSelftests:
    """Programs in `folder`, by their `names` ("guest_memfd_test", "x86/smm_test"), sorted."""

    folder: Path
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Site:
    folder: Path
    source: Path
    children: Children
    jobs: int

    def make(self, *arguments: str) -> list[str]:
        """The command line of a make in the selftests' folder."""
        headers = self.folder / "headers" / "usr" / "include"
        # Build.include tries options of the compiler in a folder beside the sources.
        tries = f"{self.folder}/tries-$$$$"
        return [
            "make", "--no-print-directory", "-C", str(self.source / FOLDER), f"-j{self.jobs}",
            f"OUTPUT={self.programs}", f"KHDR_INCLUDES=-isystem {headers}",
            f"TMPOUT={tries}", *arguments,
        ]  # fmt: skip

    @property
    def programs(self) -> Path:
        return self.folder / "programs"


def build_selftests(
    kernel: Kernel,
    choose: Callable[[Sequence[str]], list[str]],
    cache: Cache,
    jobs: int,
    progress: Progress,
) -> BuiltSelftests:
    """Compile those of the kernel's selftests that `choose` takes from all names.

    What is compiled already, and has not changed, stays. Raises `HostLacksError` where the source
    is not there, `UsageError` where none is chosen, `KernelBuildError` where it does not compile,
    and `SystemCallError`.
    """
    attempt = f"build the selftests of {kernel.name}"
    manifest = kernel.manifest
    require_plain(cache.root, "set XDG_CACHE_HOME to another folder")
    with cache.locked(progress.say) as lock:
        packages.ensure(progress.say, packages.SELFTEST_HEADERS)
        key = entry_key(kernel.name, manifest.version, manifest.source, "selftests", "")
        folder = cache.root / "selftests" / key
        children = Children(lock, folder / "make.log")
        try:
            tree = Path(manifest.tree) if manifest.tree else None
            remove_older_ones(folder, tree)
            folder.mkdir(parents=True, exist_ok=True)
            if tree is not None:
                mark(folder, tree)
            children.log.unlink(missing_ok=True)
            source = folder / "source"
            if tree is not None:
                source = _own_source(tree, attempt)
            elif not source.is_dir():
                archive = _archive(manifest, cache, attempt)
                _unpack(manifest, archive, source, children, progress)
            site = _Site(folder, source, children, jobs)
            _make_headers(site, progress, attempt, is_own=bool(manifest.tree))
            names = _names(site, attempt)
            chosen = sorted(choose(names))
            if not chosen:
                raise UsageError(
                    f"run selftests of {kernel.name}",
                    f"none of its {len(names)} has such a name",
                    "leave the pattern out for all of them",
                )
            _compile(site, chosen, progress, attempt)
        except OSError as error:
            explain_space(cache, error)
            raise system_call_error(attempt, error) from error
        except KernelBuildError as error:
            explain_space(cache, error)
            remedy = "correct it there" if manifest.tree else "install what it misses"
            raise KernelBuildError(attempt, error.cause, remedy) from error
    return BuiltSelftests(site.programs, tuple(chosen))


def require_seen(cache: Cache, attempt: str) -> None:
    """Raise `UsageError` for a cache in a folder that a lab has of its own, and so does not see."""
    resolved = cache.root.resolve()
    for own in _OWN_FOLDERS:
        if resolved.is_relative_to(own):
            raise UsageError(
                attempt,
                f"a lab has a {own} of its own, and does not see the cache in {resolved}",
                "set XDG_CACHE_HOME to a folder elsewhere",
            )


def _own_source(tree: Path, attempt: str) -> Path:
    """Return the user's tree."""
    if not (tree / FOLDER).is_dir():
        cause = f"{tree} has no {FOLDER}, or is not there any more"
        raise HostLacksError(attempt, cause, "put it back, or build another kernel")
    return tree


def _unpack(
    manifest: Manifest, archive: Path, source: Path, children: Children, progress: Progress
) -> None:
    """Have in the folder `source` what selftests need, with the kernel's change."""
    fresh = sources.unpack(
        sources.Source(manifest.source, manifest.version, archive),
        source.with_suffix(".new"),
        children,
        progress,
        MEMBERS,
    )
    if manifest.change:
        change = known_changes.named(manifest.name)
        editor = PartEditor(fresh, manifest.version, change.name)
        change.make(editor)
        editor.write()
    fresh.rename(source)


def _archive(manifest: Manifest, cache: Cache, attempt: str) -> Path:
    """Return Debian's package that the kernel was built from."""
    if not manifest.was_built_here:
        raise HostLacksError(
            attempt, "it was taken over as a file, without its source", "use one of pyvmm lab build"
        )
    words = manifest.source.split()
    if not words or not words[0].startswith("linux-source-"):
        raise HostLacksError(
            attempt,
            f"its source, {manifest.source}, is not kept",
            "unpack it, and name the folder: pyvmm lab build --source DIR",
        )
    # apt writes the colon of an epoch otherwise.
    found = sorted(cache.downloads.glob(f"{words[0]}_*{words[1].rpartition(':')[2]}_*.deb"))
    if not found:
        again = f"--with {manifest.name}" if manifest.change else f"--kernel {manifest.name}"
        raise HostLacksError(
            attempt,
            f"its source package, {words[0]} {words[1]}, is not in {cache.downloads}",
            f"fetch it: pyvmm lab build {again} --again",
        )
    return found[0]


class PartEditor(SourceEditor):
    """An editor of a source of which a part is there: what is not is left alone.

    The kernel was built with the same edits, so that they do fit.
    """

    def after(self, path: str, anchor: str, text: str) -> None:
        """See `SourceEditor`."""
        if self._has(path):
            super().after(path, anchor, text)

    def before(self, path: str, anchor: str, text: str) -> None:
        """See `SourceEditor`."""
        if self._has(path):
            super().before(path, anchor, text)

    def replace(self, path: str, old: str, new: str) -> None:
        """See `SourceEditor`."""
        if self._has(path):
            super().replace(path, old, new)

    def cut(self, path: str, first: str, stop: str) -> None:
        """See `SourceEditor`."""
        if self._has(path):
            super().cut(path, first, stop)

    def _has(self, path: str) -> bool:
        return path in self.paths or (self.root / path).is_file()


def _make_headers(site: _Site, progress: Progress, attempt: str, *, is_own: bool) -> None:
    """Have the source's uapi headers; those of a user's tree may have changed since last time."""
    headers = site.folder / "headers"
    done = site.folder / "headers.done"
    if done.exists() and not is_own:
        return
    headers.mkdir(exist_ok=True)
    with progress.stage("making headers", None, ""):
        command = [
            "make", "--no-print-directory", "-C", str(site.source), f"O={headers}",
            f"-j{site.jobs}", "headers",
        ]  # fmt: skip
        site.children.run(command, attempt)
    done.touch()


def _names(site: _Site, attempt: str) -> list[str]:
    """Names of all that are compiled on this architecture."""
    names: list[str] = []

    def take(line: str) -> None:
        found = _NAME.fullmatch(line)
        if found:
            names.append(found[1].removeprefix(f"{site.programs}/"))

    site.programs.mkdir(exist_ok=True)
    site.children.run(site.make("-s", f"--eval={_LIST}", "pyvmm-selftests"), attempt, on_line=take)
    return names


def _compile(site: _Site, names: Sequence[str], progress: Progress, attempt: str) -> None:
    done = 0
    with progress.stage(f"compiling selftests, {site.jobs} at a time", None, "files") as stage:

        def count(line: str) -> None:
            nonlocal done
            if _COMPILED.match(line):
                done += 1
                stage.reach(done)

        targets = [str(site.programs / name) for name in names]
        site.children.run(site.make(*targets), attempt, on_line=count)
