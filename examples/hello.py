# SPDX-License-Identifier: MIT
"""Hello from a guest in ten lines: assembly text, a VM that runs it, and its exits as values.

python examples/hello.py [kvm|model]
"""

import sys

from pyvmm.experiment import guest, short_errors
from pyvmm.hosts.exits import IoOut

CODE = """
        mov     $text, %esi             # each letter is an exit: a write to port 0xe9
next:   lodsb
        test    %al, %al
        jz      end
        out     %al, $0xe9
        jmp     next
end:    hlt
text:   .asciz  "Hello from ten lines\\n"
"""

with short_errors(), guest(CODE, host=(*sys.argv[1:], "auto")[0]) as hello:
    for reason in hello.exits():
        if isinstance(reason, IoOut):
            print(reason.data.decode(), end="")
print(f"it ended with {reason}")
