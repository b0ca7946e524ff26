# SPDX-License-Identifier: MIT
"""``pyvmm measure IMAGE``: the launch digest that a private run of the same guest comes to."""

from __future__ import annotations

import argparse
import json

from pyvmm.boot.launch import LaunchImage, launch_image, measure
from pyvmm.boot.loader import plan_boot
from pyvmm.cli.guest_options import add_guest_arguments, guest_inputs, read_guest
from pyvmm.cli.output_paths import STANDARD_ERROR, STANDARD_OUTPUT, refuse_to_overwrite
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode
from pyvmm.memory.address_map import AddressMap
from pyvmm.rules.abi import PAGE_SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = (
        "The digest covers the image, its command line, its initial RAM disk and the memory map: "
        "give the options that the run is given. To be compared: pyvmm run --private -v, "
        "--expect-digest."
    )
    add_guest_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: what was measured as well")


def command(options: argparse.Namespace) -> int:
    """Print the digest."""
    refuse_to_overwrite([STANDARD_OUTPUT, STANDARD_ERROR], guest_inputs(options))
    address_map = AddressMap.of(options.memory, window=0)
    guest = read_guest(options)
    plan = plan_boot(guest.image, address_map, guest.command_line, guest.initrd, guest.name)
    image = launch_image(plan, address_map, guest.name)
    digest = measure(image).hex()
    print_answer(json.dumps(_as_json(image, digest)) if options.json else digest)
    return ExitCode.OK


def _as_json(image: LaunchImage, digest: str) -> dict[str, object]:
    """GPAs and sizes in bytes."""
    return {
        "digest": digest,
        "algorithm": "sha384",
        "pages": image.size // PAGE_SIZE,
        "entry": image.entry,
        "start_info": image.start_info,
        "runs": [{"gpa": run.range.start, "size": run.range.size} for run in image.runs],
    }
