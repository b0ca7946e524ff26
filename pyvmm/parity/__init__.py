# SPDX-License-Identifier: MIT
"""Cases of the kernel's own tests, asked of a KVM: which hold there (docs/parity.md)."""
