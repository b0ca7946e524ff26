# SPDX-License-Identifier: MIT
"""Tests of `pyvmm.experiment`."""
