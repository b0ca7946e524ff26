# SPDX-License-Identifier: MIT
"""Debian's kernel source packages, by an apt of our own.

The system's configuration (proxies, credentials, certificates) is read as it is; sources, lists,
package state and downloads are in our own folders, and its hooks do not run. So nothing of the
system's apt changes, and no privilege is needed.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel.cache import sha256
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error
from pyvmm.lab.kernel.progress import Progress

SUITES = ("trixie-backports", "trixie", "bookworm-backports", "sid")
"""Debian suites searched for kernels, in this order: lists are fetched one by one, as needed."""

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_NAME = re.compile(r"\d+\.\d+")
_FIELDS = re.compile(r"^(Version|Size|SHA256|Architecture|Depends): (.+)$", re.MULTILINE)
_KERNEL_PACKAGE = r"linux-image-[\w.+~-]+"
_MOST_NAMES = 4
_PATIENCE = 60
_HOOKS = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """A version of ``linux-source-<name>`` in a suite; `size` in bytes, `sha256` of the .deb."""

    name: str
    version: str
    suite: str
    size: int
    sha256: str

    architecture = "all"

    @property
    def package(self) -> str:
        """Debian's name of the package."""
        return f"linux-source-{self.name}"

    @property
    def kernel_version(self) -> str:
        """The upstream part: "7.3.4-1~bpo13+1" -> "7.3.4"."""
        return self.version.split("-", maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class BinaryPackage:
    """A version of a package of machine code; `size` in bytes, `sha256` of the .deb."""

    package: str
    version: str
    size: int
    sha256: str
    architecture: str


def archive_name(wanted: SourcePackage | BinaryPackage) -> str:
    """The name of the file that ``apt-get download`` makes."""
    version = wanted.version.replace(":", "%3a")
    return f"{wanted.package}_{version}_{wanted.architecture}.deb"


class PrivateApt:
    """An apt with everything it writes in the folder `root`."""

    def __init__(self, root: Path, children: Children, progress: Progress) -> None:
        self.root = root
        self._children = children
        self._progress = progress

    def configuration(self) -> str:
        """Return the apt configuration that is read after the system's own and overrides it."""
        folders = {
            "Dir::Etc::sourceparts": self.root / "sources.list.d",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": self.root / "state",
            "Dir::State::Lists": self.root / "lists",
            "Dir::State::status": self.root / "state" / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Log": self.root / "log",
        }
        lines = [f"#clear {hook};" for hook in _HOOKS]
        lines += ['Dir::Etc::sourcelist "/dev/null";']
        lines += [f'{name} "{value}";' for name, value in folders.items()]
        lines += [
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            'APT::Update::Error-Mode "any";',
            # Started by root, apt would become a user who may not enter our folders.
            'APT::Sandbox::User "root";',
        ]
        return "\n".join(lines) + "\n"

    def sources(self, suite: str, mirror: str, keyring: Path) -> str:
        """The one entry of sources.list.d."""
        return (
            f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
        )

    def prepare(self, suite: str) -> None:
        """Write the configuration for `suite`. Raises `HostLacksError`, `SystemCallError`."""
        keyring = next((path for path in KEYRINGS if path.is_file()), None)
        if keyring is None:
            raise HostLacksError(
                "fetch a kernel's source from Debian",
                f"the archive's keys are not on this host ({KEYRINGS[0]})",
                "install debian-archive-keyring, or name a source with --source",
            )
        if '"' in str(self.root) or "\n" in str(self.root):
            raise UsageError(
                "fetch a kernel's source from Debian",
                f"apt cannot keep its files in {str(self.root)!r}",
                "set XDG_CACHE_HOME to another folder",
            )
        try:
            for name in ("sources.list.d", "state", "lists/partial", "cache/archives/partial"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            (self.root / "state" / "status").touch()
            (self.root / "apt.conf").write_text(self.configuration(), encoding="utf-8")
            (self.root / "sources.list.d" / "pyvmm.sources").write_text(
                self.sources(suite, self.mirror(), keyring), encoding="utf-8"
            )
        except OSError as error:
            raise system_call_error(f"write apt's configuration to {self.root}", error) from error

    def mirror(self) -> str:
        """The address that this system fetches Debian from; Debian's own where it does not."""
        for line in self._ask(
            "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", private=False
        ).splitlines():
            origin, _, rest = line.partition("|")
            label, _, address = rest.partition("|")
            if (origin, label) == ("Debian", "Debian") and address:
                return address.rstrip("/")
        return DEFAULT_MIRROR

    def look_up(self, name: str) -> SourcePackage:
        """The newest source of the kernel series `name`, from the first suite that has one.

        Raises `UsageError`, `HostLacksError`, `KernelBuildError`.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"build a kernel called {name}",
                "that is neither a kernel series (such as 7.3) nor a file",
            )
        there: set[str] = set()
        for suite in SUITES:
            self._update(suite, f"looking for Linux {name} in Debian {suite}")
            answer = self._ask("apt-cache", "show", "--no-all-versions", f"linux-source-{name}")
            if answer:
                return _parse(name, suite, answer)
            names = self._ask("apt-cache", "pkgnames", "linux-source-").split()
            there |= {found.removeprefix("linux-source-") for found in names}
        choices = ", ".join(sorted(filter(_NAME.fullmatch, there)))
        raise HostLacksError(
            f"fetch the source of Linux {name}",
            f"Debian ({', '.join(SUITES)}) has none; it has: {choices or 'no kernel sources'}",
            "choose one of those, or name a source with --source",
        )

    def look_up_binary(self, package: str, suite: str) -> BinaryPackage:
        """The newest version of `package` in `suite`; of one that is only a name for another, that.

        Raises `HostLacksError`, `KernelBuildError`.
        """
        attempt = f"fetch {package} from Debian {suite}"
        self._update(suite, f"looking for {package} in Debian {suite}")
        for _ in range(_MOST_NAMES):
            answer = self._ask("apt-cache", "show", "--no-all-versions", package)
            if not answer:
                raise HostLacksError(attempt, f"Debian {suite} has no {package}")
            fields = dict(_FIELDS.findall(answer))
            needed = re.match(rf"({_KERNEL_PACKAGE})", fields.get("Depends", ""))
            if needed is None:
                break
            package = needed[1]
        try:
            return BinaryPackage(
                package, fields["Version"], int(fields["Size"]), fields["SHA256"],
                fields["Architecture"],
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise KernelBuildError(attempt, f"apt-cache's answer lacks {error}") from error

    def download(self, wanted: SourcePackage | BinaryPackage, folder: Path) -> Path:
        """The package's file in `folder`, checked; a part that is there already is made use of.

        Raises `KernelBuildError`, `SystemCallError`.
        """
        attempt = f"download {wanted.package} {wanted.version}"
        path = folder / archive_name(wanted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for other in folder.glob(f"{wanted.package}_*"):
                if not other.name.startswith(path.name):
                    other.unlink()
            if path.is_file() and sha256(path) == wanted.sha256:
                return path
            with self._progress.stage(attempt, wanted.size, "bytes") as stage:
                self._children.run(
                    [
                        "apt-get", "-c", str(self.root / "apt.conf"), "-q", "download",
                        f"{wanted.package}={wanted.version}",
                    ],
                    attempt,
                    directory=folder,
                    while_waiting=lambda: stage.reach(_size_so_far(path)),
                )  # fmt: skip
                stage.reach(wanted.size)
            if sha256(path) != wanted.sha256:
                path.unlink()
                raise KernelBuildError(
                    attempt,
                    "what arrived has another checksum than Debian's list says",
                    "try again",
                )
        except OSError as error:
            raise system_call_error(attempt, error) from error
        return path

    def _update(self, suite: str, title: str) -> None:
        self.prepare(suite)
        with self._progress.stage(title, None, ""):
            self._children.run(
                ["apt-get", "-c", str(self.root / "apt.conf"), "-q", "update"],
                f"read the package lists of Debian {suite}",
            )

    def _ask(self, program: str, *arguments: str, private: bool = True) -> str:
        """Return what an apt tool prints on standard output; "" where it fails or is not there."""
        own = ("-c", str(self.root / "apt.conf")) if private else ()
        try:
            done = subprocess.run(
                [program, *own, *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=_PATIENCE, check=False, env=self._children.environment,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise HostLacksError(
                "fetch a kernel's source from Debian",
                f"this host has no {program}",
                "name a source with --source",
            ) from error
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout if done.returncode == 0 else ""


def _size_so_far(path: Path) -> int:
    sizes = [0]
    for candidate in path.parent.glob(f"{path.name}*"):
        try:
            sizes.append(candidate.stat().st_size)
        except OSError:
            continue
    return max(sizes)


def _parse(name: str, suite: str, answer: str) -> SourcePackage:
    fields = dict(re.findall(r"^(Version|Size|SHA256): (\S+)$", answer, re.MULTILINE))
    try:
        return SourcePackage(name, fields["Version"], suite, int(fields["Size"]), fields["SHA256"])
    except (KeyError, ValueError) as error:
        raise KernelBuildError(
            f"fetch the source of Linux {name}", f"apt-cache's answer lacks {error}"
        ) from error
