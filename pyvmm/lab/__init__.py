# SPDX-License-Identifier: MIT
"""The lab: a nested machine with a complete KVM, where commands run as if they ran outside."""
