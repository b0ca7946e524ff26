# SPDX-License-Identifier: MIT
"""Documents that are run: what is a command, what is a file, and which output is as shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.testing.documents import is_shown, run_as_written

DOCUMENT = """
```sh told.sh
echo "it took 0.31s at $1"
exit 3
```

```console
$ mkdir there && cd there
$ ls ..
...
$ sh ../told.sh 0x7fffdeadbeef
it took 1.75s at 0x123456789
$ echo $?
3
```

```console
$ pwd
...there
```
"""


def test_files_are_written_and_commands_share_a_shell(tmp_path: Path) -> None:
    ran = run_as_written(DOCUMENT, tmp_path, dict(os.environ))
    assert [status for _, _, status in ran] == [0, 0, 3, 0, 0]
    assert all(is_shown(command.shown, printed) for command, printed, _ in ran)


@pytest.mark.parametrize(
    ("shown", "printed", "is_right"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("...\nd\n", "a\nd\ne\n", False),
        ("a ... c\n", "a b c\n", True),
        ("=== 1 passed in 0.1s ===\n", "===== 1 passed in 12.34s =====\n", True),
        ("=== 1 passed in 0.1s ===\n", "===== 2 passed in 0.1s =====\n", False),
        ("at 0x1010cf\n", "at 0x1010d0\n", False),
        ("a.c\n", "abc\n", False),
        ("", "warning\n", False),
    ],
)
def test_output_is_as_shown(shown: str, printed: str, is_right: bool) -> None:
    assert is_shown(shown, printed) is is_right
