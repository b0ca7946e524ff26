# SPDX-License-Identifier: MIT
"""The demo in a terminal, and in whatever takes lines of text."""
