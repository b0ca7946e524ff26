# SPDX-License-Identifier: MIT
"""Kernels of a source tree that somebody works on: compiled again and again, from kept objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pyvmm.errors import NoInputError, UsageError
from pyvmm.lab.kernel import known_changes, making
from pyvmm.lab.kernel import source as sources
from pyvmm.lab.kernel.cache import entry_key
from pyvmm.lab.kernel.compiling import (
    Setting,
    Subject,
    built_already,
    compile_image,
    remove_older,
)  # fmt: skip
from pyvmm.lab.kernel.failures import system_call_error
from pyvmm.lab.kernel.manifest import Kernel
from pyvmm.lab.kernel.work_tree import WorkTree, mark

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RELEASE = re.compile(r"\d+(\.\d+)+")
_BUILT_IN_ITSELF = (".config", "include/config", "arch/x86/include/generated")
"""Files and folders whose presence makes kernel make refuse another folder for objects."""


@dataclass(frozen=True, slots=True)
class OwnTree:
    """The source in the folder `path` (absolute), whose kernel is called `name`.

    `fragments` are texts of configuration fragments, on top of the lab's own.
    """

    path: Path
    name: str
    fragments: tuple[str, ...] = ()


def own_tree(path: Path, name: str | None, fragments: tuple[str, ...] = ()) -> OwnTree:
    """The tree in the folder `path`, its kernel by default called as the folder.

    Raises `NoInputError`, and `UsageError` for a name that cannot be and for a tree that has been
    built in itself.
    """
    resolved = path.resolve()
    attempt = f"build the kernel source {path}"
    if not resolved.is_dir():
        raise NoInputError(attempt, "there is no such folder")
    chosen = resolved.name if name is None else name
    cause = _refusal(chosen)
    if cause:
        raise UsageError(attempt, f"its kernel cannot be called {chosen!r}: {cause}", "use --name")
    sources.kernel_version(resolved, attempt)
    for built in _BUILT_IN_ITSELF:
        if (resolved / built).exists():
            raise UsageError(
                attempt,
                f"it has been built in itself ({built} is there), and kernel make builds such a "
                "tree nowhere else",
                "run make mrproper in it, which removes its .config too, or name a git worktree",
            )
    return OwnTree(resolved, chosen, fragments)


def build_own(tree: OwnTree, setting: Setting) -> Kernel:
    """The kernel of `tree` as it is now, from the objects of last time.

    The tree is only read. Raises as `build_plain`.
    """
    cache = setting.cache
    site = _site(tree, setting)
    _tell_whose_name_it_was(tree, setting)
    plain_hash = setting.fragment.hash
    fragment = setting.fragment
    for text in tree.fragments:
        fragment = fragment.with_more(text)
    setting = replace(setting.logging_to(site), fragment=fragment)
    version = sources.kernel_version(tree.path, f"build the kernel source {tree.path}")
    objects = site.folder / "objects"
    made = making.Tree(
        tree.path, objects, setting.jobs, is_complete=(objects / making.IMAGE).is_file()
    )
    image = site.folder / making.IMAGE
    subject = Subject(tree.name, version, str(tree.path))
    manifest = compile_image(made, image, subject, setting, is_own=True)
    # Another image is another entry: a lab that is up with the one before is not this one's.
    key = setting.key(tree.name, version, f"{tree.path} {manifest.sha256}")
    kernel = built_already(cache, key)
    if kernel is not None:
        setting.progress.say("the kernel is the same as before")
        image.unlink()
        return kernel
    kernel = cache.publish(
        key, image, replace(manifest, config_hash=plain_hash, tree=str(tree.path))
    )
    remove_older(cache, kernel, key)
    return kernel


def _site(tree: OwnTree, setting: Setting) -> WorkTree:
    key = entry_key(tree.name, "", str(tree.path), "", setting.compiler)
    site = WorkTree(setting.cache, key, tree.path)
    try:
        site.folder.mkdir(parents=True, exist_ok=True)
        mark(site.folder, tree.path)
    except OSError as error:
        raise system_call_error(f"make {site.folder}", error) from error
    site.keep()
    return site


def _tell_whose_name_it_was(tree: OwnTree, setting: Setting) -> None:
    for _, manifest in setting.cache.entries():
        if manifest.name == tree.name and manifest.tree not in ("", str(tree.path)):
            setting.progress.say(
                f"the kernel {tree.name} was that of {manifest.tree}, whose objects stay; "
                "with --name it stays, too"
            )


def _refusal(name: str) -> str:
    """Reason why no kernel of a user's tree is called so; "" where it may be."""
    if not _NAME.fullmatch(name):
        return "a name has letters, digits, dots, dashes and underscores"
    if _RELEASE.fullmatch(name):
        return "that is the name of a release"
    if name in known_changes.names():
        return "that is the name of a change"
    return ""
