# SPDX-License-Identifier: MIT
"""9P2000.L, the protocol by which a guest mounts a folder: messages, and the server's session."""
