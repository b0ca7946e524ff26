# SPDX-License-Identifier: MIT
"""Builds what setuptools cannot: the cffi extension, the guest images and the firmware."""

import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import PlatformError

ROOT = Path(__file__).parent


TOOLS = ("make", "ar", "strip", "objcopy")


def _see_that_it_can_be_built() -> None:
    """Raise `PlatformError`, a line that says what to install, rather than fail in the middle."""
    if platform.machine() != "x86_64":
        raise PlatformError(f"pyvmm is for x86-64; this machine is {platform.machine()}")
    compiler = (os.environ.get("CC") or "gcc").split()[0]
    missing = [tool for tool in (compiler, *TOOLS) if shutil.which(tool) is None]
    if missing:
        raise PlatformError(
            f"building pyvmm takes {', '.join(missing)}, not found here (Debian: apt install "
            "gcc make binutils libc6-dev python3-dev); a wheel needs none of them"
        )


class BuildWithGuests(build_py):
    """Builds guest images, firmware and the lab's first process: data of an ordinary install.

    An editable install uses guest/build and firmware/build in the checkout instead, so that what is
    rebuilt is used at once.
    """

    def run(self) -> None:
        """Build as usual, then the images."""
        super().run()
        if self.editable_mode:
            return
        _see_that_it_can_be_built()
        package = Path(self.build_lib).resolve() / "pyvmm"
        images = package / "images"
        init = package / "lab" / "guest" / "build" / "init"
        # Built where they are in a checkout, and copied: make takes no path with a space in it.
        for part in ("guest", "firmware", "pyvmm/lab/guest"):
            self._make(part)
        for folder in (images, init.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for image in self._make("guest", "list").splitlines():
            shutil.copy(image, images)
        for name in ("firmware.bin", "bios.bin"):
            shutil.copy(ROOT / "firmware" / "build" / name, images)
        shutil.copy(ROOT / "pyvmm" / "lab" / "guest" / "build" / "init", init)
        self._copy_cases(package / "parity" / "cases")

    @staticmethod
    def _copy_cases(target: Path) -> None:
        """The cases that ``pyvmm parity`` runs, which are tests in a checkout, and their table."""
        ignore = shutil.ignore_patterns("__pycache__", "test_table.py", "test_kernel_answers.py")
        shutil.copytree(ROOT / "tests" / "parity", target, ignore=ignore, dirs_exist_ok=True)
        shutil.copy(ROOT / "docs" / "parity.md", target)

    @staticmethod
    def _make(folder: str, *targets: str) -> str:
        """Make in `folder` of the checkout; what it says."""
        environment = {**os.environ, "MAKEFLAGS": ""}
        command = ["make", "-s", "-C", folder, *targets]
        return subprocess.run(
            command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ).stdout


setup(
    cffi_modules=["pyvmm/hosts/kvm/build_extension.py:ffibuilder"],
    cmdclass={"build_py": BuildWithGuests},
    # cffi keeps to Python's stable ABI, but for interpreters without the lock, which have none yet.
    options={}
    if sysconfig.get_config_var("Py_GIL_DISABLED")
    else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
