# SPDX-License-Identifier: MIT
"""Kernels for the lab: built once into the user's cache, found again by name."""

from __future__ import annotations

from pyvmm.lab.kernel.cache import find
from pyvmm.lab.kernel.manifest import Kernel, Manifest

__all__ = ["Kernel", "Manifest", "find"]
