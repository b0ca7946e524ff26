# SPDX-License-Identifier: MIT
"""The guest's console: bounded buffers between the UART and the world, and what attaches there."""
