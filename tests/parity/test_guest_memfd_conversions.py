# SPDX-License-Identifier: MIT
"""guest_memfd_conversions_test, as far as it holds where the VM has the attributes.

The kernel's test is of conversion in place: attributes in the guest_memfd, one copy of the memory,
contents that survive (`test_in_place_conversions`). Here memory has two sides, and a page is
empty on the side that it comes to.
"""

from __future__ import annotations

import errno
import fcntl
import os
from functools import partial

import pytest

from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm

from .scripted_guest import PAGE, Script
from .two_sided import DATA, Ask, Via, two_sided

pytestmark = pytest.mark.kvm

SET_MEMORY_ATTRIBUTES2 = 0xC080_AED2
"""An ioctl of the file, with a structure of 128 bytes, as last proposed for in-place conversion."""
TO_PRIVATE = Ask.ATTRIBUTES | Ask.PRIVATE
TO_SHARED = Ask.ATTRIBUTES | Ask.SHARED
A, B, C = 0xAA, 0xBB, 0xCC

ALL_WAYS = pytest.mark.parametrize("via", Via, ids=lambda via: via.name.lower())


def test_files_have_attributes_where_the_vm_has_none(system: System, vm: Vm) -> None:
    """Of nothing at all, attributes are EINVAL where the file has them; ENOTTY where it has not."""
    has = system.capabilities()
    assert not (has.file_attributes and has.memory_attributes)
    number = errno.EINVAL if has.file_attributes else errno.ENOTTY
    with vm.create_guest_memfd(PAGE) as file:
        with pytest.raises(OSError, match=os.strerror(number)):
            fcntl.ioctl(file.fd, SET_MEMORY_ATTRIBUTES2, bytearray(128))


@ALL_WAYS
def test_each_page_by_itself(private_host: System, interpreter: bytes, via: Via) -> None:
    """Of four pages one is private: its index is not another's."""
    pages = [DATA + number * PAGE for number in range(4)]
    script = Script()
    with two_sided(private_host, interpreter, via, 1, 1) as memory:
        script.fill(DATA, 4 * PAGE, A)
        for page in pages:
            others = [other for other in pages if other != page]
            memory.add_conversion(script, page, PAGE, TO_PRIVATE)
            script.check(page, PAGE, 0)
            script.fill(page, PAGE, B)
            script.host(partial(memory.look_behind, page, PAGE, A))
            for other in others:
                script.check(other, PAGE, A)
                script.host(partial(memory.look, other, PAGE, A))
            script.check(page, PAGE, B)
            memory.add_conversion(script, page, PAGE, TO_SHARED)
            script.check(page, PAGE, memory.left(A))
            script.fill(page, PAGE, A)
            memory.add_clearing(script, DATA, 4 * PAGE)
        memory.run([script])


@ALL_WAYS
def test_before_anything_is_allocated(private_host: System, interpreter: bytes, via: Via) -> None:
    used, unused = DATA, DATA + PAGE
    script = Script()
    with two_sided(private_host, interpreter, via, 1, 1) as memory:
        memory.add_conversion(script, DATA, 2 * PAGE, TO_PRIVATE)
        script.check(used, PAGE, 0)
        script.fill(used, PAGE, A)
        script.check(used, PAGE, A)
        script.host(lambda: memory.look_behind(DATA, 2 * PAGE, 0))
        # And back, of one page that has been allocated since and one that has not.
        memory.add_conversion(script, DATA, 2 * PAGE, TO_SHARED)
        script.check(DATA, 2 * PAGE, 0)
        script.host(lambda: memory.look(DATA, 2 * PAGE, 0, then=B))
        script.check(unused, PAGE, B)
        memory.add_clearing(script, DATA, 2 * PAGE)
        memory.run([script])


@ALL_WAYS
def test_a_range_of_which_some_is_allocated(
    private_host: System, interpreter: bytes, via: Via
) -> None:
    """Eight pages to private at once and back one by one; two of them, or one, had been written."""
    count, second = 8, 4
    script = Script()
    with two_sided(private_host, interpreter, via, 1, 1) as memory:
        for first in range(count):
            base = DATA + first * count * PAGE
            written = {base + first * PAGE, base + second * PAGE}
            for page in sorted(written):
                script.host(partial(memory.look, page, PAGE, 0, then=A))
            memory.add_conversion(script, base, count * PAGE, TO_PRIVATE)
            script.check(base, count * PAGE, 0)
            script.fill(base, count * PAGE, B)
            for page in range(base, base + count * PAGE, PAGE):
                rest = page + PAGE, base + count * PAGE - page - PAGE
                left = memory.left(A) if page in written else 0
                memory.add_conversion(script, page, PAGE, TO_SHARED)
                script.host(partial(memory.look, page, PAGE, left, then=C))
                script.check(page, PAGE, C)
                script.check(*rest, B)
            memory.add_clearing(script, base, count * PAGE)
        memory.run([script])


@ALL_WAYS
def test_punching_keeps_the_attributes(private_host: System, interpreter: bytes, via: Via) -> None:
    script = Script()
    with two_sided(private_host, interpreter, via, 1, 1) as memory:
        script.fill(DATA, PAGE, A)
        memory.add_conversion(script, DATA, PAGE, Ask.FILE | Ask.SHARED)
        script.check(DATA, PAGE, A)
        script.host(lambda: memory.look(DATA, PAGE, A))
        memory.add_conversion(script, DATA, PAGE, TO_PRIVATE)
        script.fill(DATA, PAGE, B)
        memory.add_conversion(script, DATA, PAGE, Ask.FILE | Ask.SHARED)
        script.check(DATA, PAGE, 0)
        # Still private: the host sees nothing of what is written now.
        script.fill(DATA, PAGE, C)
        script.host(lambda: memory.look_behind(DATA, PAGE, A))
        script.check(DATA, PAGE, C)
        memory.run([script])
