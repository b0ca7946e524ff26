# SPDX-License-Identifier: MIT
"""PCI: configuration spaces of functions, and the one bus that they are on."""
