# SPDX-License-Identifier: MIT
"""A chapter, an act, an outcome and a reader's place, as values: nothing here touches a machine."""
