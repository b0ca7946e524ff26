# SPDX-License-Identifier: MIT
"""Disks of a machine: their files, who may have them, and how their bytes are moved."""
