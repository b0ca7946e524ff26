# SPDX-License-Identifier: MIT
"""Tests of the room `machine.pci`."""
