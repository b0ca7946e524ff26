# SPDX-License-Identifier: MIT
"""``pyvmm linux DIR``: Debian's kernel, an initial RAM file system and a disk, ready to boot."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.sizes import parse_size
from pyvmm.cli.standard_error import user_stream
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode, NoInputError, UsageError
from pyvmm.visible import visible

if TYPE_CHECKING:
    from pyvmm.lab.kernel.progress import Progress
    from pyvmm.lab.linux.kernel_package import LinuxKernel

_EPILOG = """\
The kernel is kept in the cache (~/.cache/pyvmm/linux) and fetched again with --again alone. On the
guest's console is a shell; what stands behind " -- " on the kernel's command line is run instead of
it, and then the guest powers off. Words for its first process: root=/dev/vda (with --disk),
rootfstype=, rootflags=, rw, net=dhcp (or net=ADDRESS/BITS,ROUTER).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Write a kernel of Debian's, an initrd and a disk to boot it with to DIR."
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="where they go; made if need be")
    parser.add_argument(
        "--suite", metavar="NAME", help="Debian's release the kernel is from (default: bookworm)"
    )
    parser.add_argument(
        "--package", metavar="NAME",
        help="the kernel's package (default: linux-image-cloud-amd64; linux-image-amd64 has 9p)",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="look for a newer one in Debian")
    parser.add_argument(
        "--kernel", type=Path, metavar="FILE", help="a kernel of one's own, instead of Debian's"
    )
    parser.add_argument(
        "--modules", type=Path, metavar="DIR", help="with --kernel: its lib/modules/RELEASE"
    )
    parser.add_argument(
        "--module", action="append", default=[], metavar="NAME",
        help="one more module, with those it needs (repeat)",
    )  # fmt: skip
    parser.add_argument(
        "--add", type=Path, action="append", default=[], metavar="FILE",
        help="a static program or script, for /bin (repeat)",
    )  # fmt: skip
    parser.add_argument(
        "--disk",
        type=parse_size,
        metavar="SIZE",
        help="an ext4 disk with the same files as well; replaces one that is there",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def command(options: argparse.Namespace) -> int:
    """Fetch if need be, write, and say how to boot it."""
    from pyvmm.lab.kernel import progress
    from pyvmm.lab.linux import making

    with progress.to_stream(user_stream()) as reporting:
        kernel = _own_kernel(options) if options.kernel else _debians(options, reporting)
    wish = making.LinuxWish(tuple(options.module), tuple(options.add), options.disk)
    files = making.make(kernel, options.folder, wish)
    if options.json:
        told = {
            "release": kernel.release,
            "kernel": visible(str(files.kernel)),
            "initrd": visible(str(files.initrd)),
            "disk": None if files.disk is None else visible(str(files.disk)),
            "modules": files.loaded,
        }
        print_answer(json.dumps(told, indent=2))
        return ExitCode.OK
    words = ["pyvmm", "run", str(files.kernel), "--initrd", str(files.initrd), "-m", "512M"]
    line = "console=ttyS0"
    if files.disk is not None:
        words += ["--disk", str(files.disk)]
        line += " root=/dev/vda rw"
    words += ["--append", line]
    print_answer(
        f"Linux {visible(kernel.release)}, {len(files.loaded)} modules; boot it with\n"
        + visible(shlex.join(words))
    )
    return ExitCode.OK


def _debians(options: argparse.Namespace, progress: Progress) -> LinuxKernel:
    from pyvmm.lab.linux import kernel_package

    if options.modules is not None:
        raise UsageError(
            f"take modules from {options.modules}", "they belong to no kernel", "give --kernel, too"
        )
    return kernel_package.fetch(
        progress,
        suite=kernel_package.DEFAULT_SUITE if options.suite is None else options.suite,
        package=kernel_package.DEFAULT_PACKAGE if options.package is None else options.package,
        again=options.again,
    )


def _own_kernel(options: argparse.Namespace) -> LinuxKernel:
    from pyvmm.lab.linux.kernel_package import LinuxKernel

    attempt = f"take the kernel {options.kernel}"
    if options.suite or options.package or options.again:
        raise UsageError(attempt, "nothing is fetched from Debian", "leave the other options out")
    if not options.kernel.is_file():
        raise NoInputError(attempt, "it is no file")
    if options.modules is None and options.module:
        raise UsageError(attempt, "there are no modules to choose from", "give --modules, too")
    if options.modules is not None and not options.modules.is_dir():
        raise NoInputError(f"take modules from {options.modules}", "it is no folder")
    release = options.modules.resolve().name if options.modules else options.kernel.name
    return LinuxKernel(release, options.kernel, options.modules)
