# SPDX-License-Identifier: MIT
"""Folders that are shared with a guest: what the host's system calls do for 9P's session."""
