# SPDX-License-Identifier: MIT
"""Stories of `pyvmm.lifetime`, carried out on a host's real KVM and compared step by step.

`hands` does single operations in one process; `workers` gives each process of a story one of its
own; `guest` is the vCPU that touches memory; `liveness` sees which VMs the kernel still has;
`executor` follows a story and the model side by side. What no kernel has is not replayed.
"""
