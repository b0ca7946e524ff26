# SPDX-License-Identifier: MIT
"""Stock Linux to boot: Debian's kernel, an initial RAM file system with busybox, and a disk."""
