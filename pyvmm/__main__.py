# SPDX-License-Identifier: MIT
"""``python -m pyvmm``: the same as the ``pyvmm`` command."""

import sys

from pyvmm.cli.main import process

sys.exit(process())
