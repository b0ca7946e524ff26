# SPDX-License-Identifier: MIT
"""PCI in a machine: the bus's slots, windows of BARs, interrupts and doorbells of functions."""
