# SPDX-License-Identifier: MIT
"""Builds what setuptools cannot: the cffi extension, the guest images and the firmware."""

import os
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


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
        images = Path(self.build_lib).resolve() / "pyvmm" / "images"
        images.mkdir(parents=True, exist_ok=True)
        for part in ("guest", "firmware"):
            subprocess.run(
                ["make", "-s", "-C", ROOT / part, f"OUT={images}"],
                check=True,
                env={**os.environ, "MAKEFLAGS": ""},
            )
        init = Path(self.build_lib).resolve() / "pyvmm" / "lab" / "guest" / "build" / "init"
        subprocess.run(
            ["make", "-s", "-C", ROOT / "pyvmm" / "lab" / "guest", f"OUT={init}"],
            check=True,
            env={**os.environ, "MAKEFLAGS": ""},
        )


setup(
    cffi_modules=["pyvmm/hosts/kvm/build_extension.py:ffibuilder"],
    cmdclass={"build_py": BuildWithGuests},
    # cffi keeps to Python's stable ABI, but for interpreters without the lock, which have none yet.
    options={}
    if sysconfig.get_config_var("Py_GIL_DISABLED")
    else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
