# SPDX-License-Identifier: MIT
"""Hosts: what offers KVM's memory semantics, and the values that cross the border to it.

`registers`, `exits` and `capabilities` are pure values; `interface` is what every host implements;
`pyvmm.hosts.kvm` is /dev/kvm. Importing this package loads none of them.
"""
