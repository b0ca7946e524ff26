# SPDX-License-Identifier: MIT
"""pyvmm compare."""
