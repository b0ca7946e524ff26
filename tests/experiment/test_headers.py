# SPDX-License-Identifier: MIT
"""Headers of kernels: one made for the test, and this machine's own."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, NoInputError
from pyvmm.experiment import DeclarationError, Declarations, declare
from pyvmm.hosts.kvm import ioctls as built_in

INSTALLED = Path("/usr/include")
has_headers = pytest.mark.skipif(
    not (INSTALLED / "linux/kvm.h").exists(), reason="linux/kvm.h is not installed"
)


@functools.cache
def installed() -> Declarations:
    return declare("#include <linux/kvm.h>", tree=INSTALLED)


@has_headers
@pytest.mark.slow
def test_the_ioctls_of_installed_headers_are_those_that_are_built_in() -> None:
    abi = installed()
    both = set(abi.ioctls()) & set(built_in.ALL)
    assert len(both) > 60
    for name in both:
        found, known = abi.ioctl(name), built_in.ALL[name]
        assert found.number == known.number, name
        if known.direction is not built_in.Direction.NONE:
            assert found.argument.split()[-1] in known.argument or "int" in known.argument, name


@has_headers
def test_exits_have_names_and_kvm_run_its_size() -> None:
    abi = installed()
    assert abi.name_of("KVM_EXIT_", 12) == "KVM_EXIT_TPR_ACCESS"
    assert abi.name_of("KVM_EXIT_", 9999) == "9999"
    assert abi.size_of("struct kvm_run") > 1024
    assert abi.KVM_DIRTY_GFN_F_RESET == 2  # by a macro that pastes tokens


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel's source, as far as it is read."""
    content = {
        "include/uapi/linux/types.h": "#include <asm/types.h>\n",
        "include/uapi/asm-generic/types.h": "typedef unsigned long long __u64;\n",
        "include/uapi/linux/ioctl.h": "",
        "include/uapi/linux/kvm.h": """
            #ifndef KVM_H
            #define KVM_H
            #include <linux/types.h>
            #include <linux/compiler.h>
            #include <asm/kvm.h>
            enum kinds { KVM_ONE,
            #define KVM_ONE KVM_ONE
                         KVM_TWO, };
            #ifdef __KERNEL__
            #error not for users
            #endif
            struct kvm_list { __u64 n; struct { struct { } __empty_entries; __u64 entries[]; }; };
            struct kvm_none { __u64 n; union { __u64 a[0]; char b[0]; } data; };
            #define KVM_NEW _IOWR(KVMIO, 0xfd, struct kvm_list)
            #define KVM_ARCH _IOW(KVMIO, 0xfe, struct kvm_arch)
            #endif
            """,
        "arch/x86/include/uapi/asm/kvm.h": "struct kvm_arch { __u64 x; };\n",
    }
    for name, text in content.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_a_tree_is_read_and_left_as_it_is(tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    text = "#include <linux/kvm.h>\nstruct posted { struct kvm_arch arch; };"
    abi = declare(f"{text}\n#define KVM_POSTED _IOR(KVMIO, 0xff, struct posted)", tree=str(tree))
    assert abi.KVM_NEW.number == 0xC008_AEFD
    assert abi.KVM_ARCH.number == 0x4008_AEFE
    assert abi.KVM_POSTED.number == 0x8008_AEFF
    assert (abi.KVM_ONE, abi.KVM_TWO) == (0, 1)
    assert abi.size_of("struct kvm_none") == 8
    assert len(abi.new("struct kvm_list", elements=2, n=2)) == 24
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#include <linux/missing.h>", r"C text \(line 1\): .*missing.h"),
        ("\n#error on purpose", r"C text \(line 2\): .*on purpose"),
        ("#include <linux/kvm.h>\nstruct x { int y; }", r"C text \(line 2\): .*semicolon"),
    ],
)
def test_an_error_is_told_with_its_place(tree: Path, text: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said) as caught:
        declare(text, tree=tree)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no kernel tree"):
        declare("", tree=tmp_path)


def test_a_machine_without_a_preprocessor_is_told_of(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tree))
    with pytest.raises(HostLacksError, match="no C preprocessor"):
        declare("", tree=tree)
