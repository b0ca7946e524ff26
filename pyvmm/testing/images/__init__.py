# SPDX-License-Identifier: MIT
"""Images: what they list, the symbols and sources they have, and images as files of tests."""
