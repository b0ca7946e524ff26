# SPDX-License-Identifier: MIT
"""/dev/kvm through cffi. cffi data never leaves this package."""
