# SPDX-License-Identifier: MIT
"""QMP: QEMU as a managed peer."""
