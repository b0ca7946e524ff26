# SPDX-License-Identifier: MIT
"""Boot: from an image's bytes to what to place where, and the state to enter it in. Pure."""
