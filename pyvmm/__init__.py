# SPDX-License-Identifier: MIT
"""pyvmm: a virtual machine monitor for understanding, prototyping and testing guest memory."""
