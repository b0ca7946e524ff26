# SPDX-License-Identifier: MIT
"""The host's side of guests' networks: frames, taps, links, namespaces, user-mode stacks."""
