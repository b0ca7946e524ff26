# SPDX-License-Identifier: GPL-2.0-only
"""Changes to the kernel's source, each a file of edits: its name, with dashes, is the kernel's.

A change's module has ``FITS``, the series that it is written for ("7.3"); ``ABOUT``, a line for
those who choose; and ``change(tree)``, which makes the edits by a `SourceEditor` and raises
`ChangeDoesNotFitError`. What fits a version is found out by trying: its anchors are there, or not.
These files are derived from the kernel and have its licence; the text in them is the project's.
"""
