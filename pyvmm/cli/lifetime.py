# SPDX-License-Identifier: MIT
"""``pyvmm lifetime``: who pins whom, in two designs: explored, replayed, drawn."""

from __future__ import annotations

import argparse

from pyvmm.cli.lab_kernels import add_kernel_option
from pyvmm.cli.sizes import parse_count
from pyvmm.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    _add_explore(commands)
    _add_replay(commands)
    _add_attack(commands)
    _add_show(commands)
    _add_report(commands)
    _add_pictures(commands)


def command(options: argparse.Namespace) -> int:
    """Unreachable: each command of ``pyvmm lifetime`` has set its own call."""
    raise UsageError("run pyvmm lifetime", f"it needs a command, not {options}")


def _add_explore(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    explore = commands.add_parser(
        "explore",
        help="Visit every state of a design and say what holds, or tell the shortest story.",
        epilog="Ends with 0 whenever it ran: what it finds are results.",
        allow_abbrev=False,
    )
    explore.add_argument(
        "--design",
        action="append",
        metavar="NAME",
        help="file-pins-vm or memslot-pins-file; may be repeated (default: both)",
    )
    explore.add_argument(
        "--remedy",
        action="append",
        default=[],
        metavar="NAME",
        help="what was proposed against contents that reach another VM: never-rebind, "
        "zero-at-unbinding, zero-at-rebinding, owner-in-inode; for memslot-pins-file; "
        "may be repeated",
    )
    explore.add_argument(
        "--universe",
        default="standard",
        metavar="NAME",
        help="standard, family, linked, small, vcpus, errors, failures, types, moved, updated, or "
        "numbers: vms=2,files=2,slots=2,pages=2,processes=1,handles=2 (default: standard)",
    )
    explore.add_argument(
        "--interleave",
        type=parse_count,
        metavar="N",
        help="instead: every order of the steps of up to N operations at a time, 2 or 3",
    )
    explore.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="NAME",
        help="with --interleave: leave out a lock or a grace period (slots-lock, "
        "invalidate-lock, rcu-grace, ...) or what else keeps steps apart; may be repeated",
    )
    explore.add_argument("--json", metavar="FILE", help="write what was found as JSON (-: print)")
    explore.add_argument("--save", metavar="DIR", help="write each story as a file for replay")
    explore.set_defaults(call=_explore)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = commands.add_parser(
        "replay",
        help="Do to the real KVM what the exploration did to its model, and compare each step.",
        epilog="Without FILE: sequences that take every transition, and the shortest stories of "
        "every design. Ends with 1 where the kernel did otherwise.",
        allow_abbrev=False,
    )
    replay.add_argument("files", nargs="*", metavar="FILE", help="stories that explore has saved")
    replay.add_argument(
        "--host",
        default="kvm",
        choices=["kvm", "lab"],
        help="this machine's /dev/kvm (default), or the lab's",
    )
    add_kernel_option(replay)
    replay.add_argument(
        "--universe",
        action="append",
        metavar="NAME",
        help="cover this one; may be repeated (default: standard and family)",
    )
    replay.add_argument(
        "--count", type=parse_count, metavar="N", help="at most N sequences of each"
    )
    replay.add_argument("--json", action="store_true", help="print JSON")
    replay.set_defaults(call=_replay)


def _add_attack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    attack = commands.add_parser(
        "attack",
        help="Try for real whom a VM's private memory reaches: another VM that binds its file, a "
        "host that maps it.",
        epilog="Ends with 0 whenever it ran: what it finds are results. Remedies are parameters of "
        "the kernel memslot-pins-file (pyvmm lab build --with memslot-pins-file), for all of the "
        "machine; they are put back.",
        allow_abbrev=False,
    )
    attack.add_argument(
        "--host",
        default="kvm",
        choices=["kvm", "lab"],
        help="this machine's /dev/kvm (default), or the lab's",
    )
    attack.add_argument(
        "--remedy",
        action="append",
        default=[],
        metavar="NAME",
        help="have this one on meanwhile: never-rebind, zero-at-unbinding, zero-at-rebinding, "
        "owner-in-inode, judged-flags; may be repeated (default: what is on)",
    )
    attack.add_argument(
        "--each-remedy", action="store_true", help="instead: with none, then with each alone"
    )
    attack.add_argument(
        "--vms",
        type=parse_count,
        default=1,
        metavar="N",
        help="so many VMs, one after the other, try to bind the file (default: 1)",
    )
    add_kernel_option(attack)
    attack.add_argument("--json", action="store_true", help="print JSON")
    attack.set_defaults(call=_attack)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = commands.add_parser(
        "show",
        help="Draw who pins whom before and after each step; without SCENARIO: list them.",
        allow_abbrev=False,
    )
    show.add_argument("scenario", nargs="?", metavar="SCENARIO", help="a name, or a story's file")
    show.add_argument(
        "--design",
        default="both",
        choices=["both", "file-pins-vm", "memslot-pins-file"],
        help="which one to draw (default: both, side by side)",
    )
    show.add_argument("--svg", metavar="FILE", help="write a drawing as well")
    show.set_defaults(call=_show)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="Make the tables and stories of docs/lifetime*.md anew: print them, or put them into "
        "each FILE.",
        epilog="Takes some minutes. With --check it ends with 1 where a FILE has others.",
        allow_abbrev=False,
    )
    report.add_argument("files", nargs="*", metavar="FILE", help="a document with markers for them")
    report.add_argument("--check", action="store_true", help="change nothing, say whether it would")
    report.set_defaults(call=_report)


def _add_pictures(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pictures = commands.add_parser(
        "pictures",
        help="Draw the pictures of docs/lifetime.md anew, into FOLDER.",
        epilog="With --check it ends with 1 where FOLDER has others.",
        allow_abbrev=False,
    )
    pictures.add_argument("folder", metavar="FOLDER", help="where the pictures are: docs/pictures")
    pictures.add_argument("--check", action="store_true", help="change nothing, say which differ")
    pictures.set_defaults(call=_pictures)


def _explore(options: argparse.Namespace) -> int:
    from pyvmm.cli import lifetime_explore

    return lifetime_explore.command(options)


def _replay(options: argparse.Namespace) -> int:
    if options.kernel:
        from pyvmm.cli import lifetime_kernels

        return lifetime_kernels.command(options)
    if options.host == "lab":
        from pyvmm.cli.lab import run_same_command

        return run_same_command(options.arguments, [])
    from pyvmm.cli import lifetime_replay

    return lifetime_replay.command(options)


def _attack(options: argparse.Namespace) -> int:
    if options.host == "lab" and not options.kernel:
        from pyvmm.cli.lab import run_same_command

        return run_same_command(options.arguments, [])
    from pyvmm.cli import lifetime_attack

    return lifetime_attack.command(options)


def _show(options: argparse.Namespace) -> int:
    from pyvmm.cli import lifetime_show

    return lifetime_show.command(options)


def _report(options: argparse.Namespace) -> int:
    from pyvmm.cli import lifetime_report

    return lifetime_report.command(options)


def _pictures(options: argparse.Namespace) -> int:
    from pyvmm.cli import lifetime_pictures

    return lifetime_pictures.command(options)
