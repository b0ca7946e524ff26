"""QMP: QEMU as a managed peer."""
