# SPDX-License-Identifier: MIT
"""A host without /dev/kvm: KVM's memory rules in Python, guest instructions on Unicorn."""
