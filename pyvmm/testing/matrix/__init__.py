# SPDX-License-Identifier: MIT
"""Boot matrices: images by memory, CPUs and hosts, booted here or on a cluster (docs/matrix.md)."""
