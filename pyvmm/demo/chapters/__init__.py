# SPDX-License-Identifier: MIT
"""The chapters: data, a file each."""

from __future__ import annotations

from pyvmm.demo.chapters.attack import ATTACK
from pyvmm.demo.chapters.conversion import CONVERSION
from pyvmm.demo.chapters.destroys import DESTROYS
from pyvmm.demo.chapters.exercises import AROUND, BINDINGS, KEPT_VM, NOTHING_LEFT, REFUSALS
from pyvmm.demo.chapters.files import FILES
from pyvmm.demo.chapters.glossary import GLOSSARY
from pyvmm.demo.chapters.hardware import HARDWARE
from pyvmm.demo.chapters.in_place import IN_PLACE
from pyvmm.demo.chapters.launch import LAUNCH
from pyvmm.demo.chapters.pins import PINS
from pyvmm.demo.chapters.private_exercises import (
    BY_AGREEMENT,
    FAULT_AND_END,
    FORGE,
    NOT_TWICE,
    SAME_DIGEST,
)
from pyvmm.demo.chapters.slots import SLOTS
from pyvmm.demo.chapters.teardown import TEARDOWN
from pyvmm.demo.telling.chapter import Book

BOOK = Book(
    (SLOTS, FILES, LAUNCH, CONVERSION, DESTROYS, ATTACK, PINS, IN_PLACE, TEARDOWN, HARDWARE),
    (
        REFUSALS,
        BINDINGS,
        SAME_DIGEST,
        FAULT_AND_END,
        NOT_TWICE,
        BY_AGREEMENT,
        KEPT_VM,
        AROUND,
        NOTHING_LEFT,
        FORGE,
    ),
    GLOSSARY,
)
