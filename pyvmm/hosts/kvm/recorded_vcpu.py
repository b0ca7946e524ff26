# SPDX-License-Identifier: MIT
"""A vCPU whose exits are told of. One that nobody watches pays nothing for that."""

from __future__ import annotations

from pyvmm.hosts.exits import Exit
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.recording import tell, tell_range
from pyvmm.hosts.kvm.vcpu import Vcpu


class RecordedVcpu(Vcpu):
    """A `Vcpu` that has a recorder."""

    def run(self) -> Exit:
        """Run guest code, and tell of what ended that, before it is returned."""
        try:
            exit_ = super().run()
        except KvmError as error:
            name = ioctls.RUN.name
            tell(self.recorder, "ioctl", f"vCPU fd {self.fd}", -error.errno, request=name)
            raise
        if self.recorder is not None:
            self.recorder.exit(self.index, exit_)
        return exit_

    def _unmap(self) -> None:
        super()._unmap()
        if self.recorder is not None and self.fd >= 0:
            where = ("address", *self._mapped)
            tell_range(self.recorder, "munmap", "memory", where, 0)
