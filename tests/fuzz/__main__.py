# SPDX-License-Identifier: MIT
"""``python -m tests.fuzz TARGET``: fuzz until something is found, or as long as is asked for.

Atheris, which is libFuzzer for Python, is installed by hand (``pip install atheris``): it has
wheels for few versions of Python, and CI does not need it.
"""

from __future__ import annotations

import argparse
import sys
from hashlib import sha1
from pathlib import Path

from .target import names, target_of

_LACKS_ATHERIS = "tests.fuzz: there is no Atheris; install it: pip install atheris\n"
_UNAVAILABLE = 69


def main() -> None:
    """Fuzz; libFuzzer ends the process, with another status than 0 where it has found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=names())
    parser.add_argument("--runs", type=int, default=-1, help="inputs to try; without: no limit")
    parser.add_argument("--seconds", type=int, default=0, help="time to take; without: no limit")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/fuzz"), help="what was found is kept there"
    )
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.stderr.write(_LACKS_ATHERIS)
        sys.exit(_UNAVAILABLE)
    with atheris.instrument_imports(include=["pyvmm"]):
        target = target_of(options.target)
    corpus = options.folder / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-runs={options.runs}",
        f"-max_total_time={options.seconds}",
        f"-max_len={target.most}",
        f"-artifact_prefix={options.folder}/{options.target}-",
        "-timeout=20",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, target.one)
    atheris.Fuzz()


main()
