# SPDX-License-Identifier: MIT
"""The chapters: data, a file each."""

from __future__ import annotations

from pyvmm.demo.chapters.exercises import BINDINGS, KEPT_VM, NOTHING_LEFT, REFUSALS
from pyvmm.demo.chapters.files import FILES
from pyvmm.demo.chapters.glossary import GLOSSARY
from pyvmm.demo.chapters.pins import PINS
from pyvmm.demo.chapters.slots import SLOTS
from pyvmm.demo.chapters.teardown import TEARDOWN
from pyvmm.demo.telling.chapter import Book

BOOK = Book(
    (SLOTS, FILES, PINS, TEARDOWN),
    (REFUSALS, BINDINGS, KEPT_VM, NOTHING_LEFT),
    GLOSSARY,
)
