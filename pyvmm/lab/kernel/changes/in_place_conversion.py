# SPDX-License-Identifier: GPL-2.0-only
"""Conversion in place: a guest_memfd's inode knows which of its pages are private.

Written from the interface as it is described (docs/private-memory.md), for software-protected VMs
on Linux 7.3; what happens inside is this file's own idea of it:

- ``kvm.gmem_in_place_conversion``, read-only and on, chooses for the whole module: on, the per-VM
  ``KVM_CAP_MEMORY_ATTRIBUTES`` is 0; off (on the kernel's command line), all is as in Linux 7.3.
- ``KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES`` is 251 and tells the attributes that files can have.
- ``KVM_SET_MEMORY_ATTRIBUTES2`` of a guest_memfd converts a range of it as a whole, or not at all:
  EAGAIN and the offset of the first page that somebody else has a reference on.
- A file starts as its flags say, and VMs with private memory may make it INIT_SHARED. Its inode has
  a tree of the ranges that were converted from that; a range that is back at it takes no memory.
- KVM asks the file for the attribute of a guest's page, and the host's page faults ask it, too. A
  memslot whose file was closed is private: its accesses fail, and find nothing else.

Left out:

- Hardware: attributes of files are for KVM_X86_SW_PROTECTED_VM. A file of an SNP or TDX VM is all
  private, always; such VMs need the parameter off.
- The flags to zero or preserve contents: contents always survive, and flags are 0.
- A second file on one inode (no such thing is in 7.3), large folios (guest_memfd has none in 7.3).
- KVM as a module (``lru_add_drain_all`` is not exported), and the charge for the tree to a cgroup.
- Memory errors: a page with one keeps the reference of who found it, so that it is held: EAGAIN.
  As in 7.3, a hole that is punched just then may wait for ever: the page's lock, and the file's.
- Shared pages of a file without MMAP, which the host cannot reach by it: as in 7.3, the guest finds
  at its address what the memslot's userspace_addr has, in pages of 4 KiB.
"""

from __future__ import annotations

from pyvmm.lab.kernel.changes._in_place_conversion_text import (
    ASKING,
    ATTRIBUTE,
    CONVERSION,
    HOST_FAULT,
    TRIED_FOLIO,
)
from pyvmm.lab.kernel.source_editor import SourceEditor

FITS = "7.3"
ABOUT = "a guest_memfd keeps which of its pages are private, and converts them in place"

_UAPI = "include/uapi/linux/kvm.h"
_HOST = "include/linux/kvm_host.h"
_FILE = "virt/kvm/guest_memfd.c"
_MAIN = "virt/kvm/kvm_main.c"
_X86 = "arch/x86/kvm/x86.c"
_MMU = "arch/x86/kvm/mmu/mmu.c"

ABI = """
/* Of a guest_memfd, where KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES is not 0 */
#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES 251
#define KVM_SET_MEMORY_ATTRIBUTES2             _IOWR(KVMIO,  0xd2, struct kvm_memory_attributes2)

struct kvm_memory_attributes2 {
	union {
		__u64 address;
		__u64 offset;	/* in the file, bytes */
	};
	__u64 size;		/* bytes */
	__u64 attributes;
	__u64 flags;		/* 0 */
	__u64 error_offset;	/* out, with EAGAIN: the first page that is held */
	__u64 reserved[11];	/* 0 */
};
"""

_DECLARATIONS = """
extern bool gmem_in_place_conversion;

bool kvm_gmem_is_private(struct kvm *kvm, gfn_t gfn);
u64 kvm_gmem_supported_attributes(struct kvm *kvm);
bool kvm_arch_converts_gmem_in_place(struct kvm *kvm);

/* Where the attributes of guest_memfd's memory are: in its inode, or in the VM. */
static inline bool kvm_gmem_keeps_attributes(void)
{
	return gmem_in_place_conversion;
}
#else
static inline bool kvm_gmem_keeps_attributes(void)
{
	return false;
}

static inline bool kvm_gmem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return false;
}
"""

_PARAMETER = """
bool gmem_in_place_conversion __ro_after_init = true;
module_param(gmem_in_place_conversion, bool, 0444);
MODULE_PARM_DESC(gmem_in_place_conversion,
		 "Keep the attributes of memory in guest_memfd's inodes, and none in VMs");
EXPORT_SYMBOL_FOR_KVM_INTERNAL(gmem_in_place_conversion);
"""

_FILTER = """\
	/* With attributes of its own, a file may have both kinds mapped. */
	if (kvm_gmem_keeps_attributes())
		return KVM_FILTER_SHARED | KVM_FILTER_PRIVATE;

"""

_NEW_TREE = """\
	mt_init_flags(&gi->converted, MT_FLAGS_LOCK_EXTERN | MT_FLAGS_USE_RCU);
	mt_set_external_lock(&gi->converted, &gi->vfs_inode.i_data.invalidate_lock);
"""

_OLD_TREE = """\

	/* An inode whose set-up failed may have no lock yet, and has no ranges. */
	if (!mtree_empty(&GMEM_I(inode)->converted)) {
		filemap_invalidate_lock(&inode->i_data);
		__mt_destroy(&GMEM_I(inode)->converted);
		filemap_invalidate_unlock(&inode->i_data);
	}
"""

_WHICH_VMS = """
bool kvm_arch_converts_gmem_in_place(struct kvm *kvm)
{
	if (!kvm)
		return kvm_is_vm_type_supported(KVM_X86_SW_PROTECTED_VM);

	return kvm->arch.vm_type == KVM_X86_SW_PROTECTED_VM;
}
"""

_LEAVING = """\
	/*
	 * A memslot that is about to be deleted has lost its file, and cannot
	 * tell the attribute any more: wait for what comes after it.
	 */
	if (kvm_gmem_keeps_attributes() && slot && slot->flags & KVM_MEMSLOT_INVALID)
		return fault->prefetch ? -EAGAIN : RET_PF_RETRY;

"""

_SMALL_PAGES = """\
	/* Private and shared pages may be neighbours, and nobody keeps account of where. */
	if (kvm_gmem_keeps_attributes() && kvm_slot_has_gmem(slot))
		return PG_LEVEL_4K;

"""


def change(tree: SourceEditor) -> None:
    """Make the edits. Raises `ChangeDoesNotFitError`."""
    _declare(tree)
    _keep_attributes(tree)
    _ask_the_file(tree)


def _declare(tree: SourceEditor) -> None:
    """The interface: to user space, and inside of KVM."""
    tree.after(_UAPI, "#define KVM_MEMORY_ATTRIBUTE_PRIVATE           (1ULL << 3)\n", ABI)
    tree.before(
        _HOST,
        "#endif\n\n#ifndef kvm_arch_has_readonly_mem\n",
        _DECLARATIONS,
    )
    tree.before(
        _MAIN,
        "	case KVM_CAP_GUEST_MEMFD_FLAGS:\n",
        "	case KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES:\n"
        "		return kvm_gmem_supported_attributes(kvm);\n",
    )
    tree.before(
        _MAIN,
        "	if (!kvm || kvm_arch_has_private_mem(kvm))\n"
        "		return KVM_MEMORY_ATTRIBUTE_PRIVATE;\n",
        "	if (kvm_gmem_keeps_attributes())\n		return 0;\n\n",
    )
    tree.replace(
        _X86,
        " * guest_memfd).\n */\n",
        " * guest_memfd, where gmem_in_place_conversion has it).\n */\n",
    )
    tree.replace(
        _X86,
        "	return !kvm_arch_has_private_mem(kvm);\n}\n",
        "	return !kvm_arch_has_private_mem(kvm) || kvm_gmem_supported_attributes(kvm);\n}\n"
        + _WHICH_VMS,
    )


def _keep_attributes(tree: SourceEditor) -> None:
    """The inode's part: the tree, the ioctl, and the host's page faults."""
    tree.before(_FILE, "#include <linux/falloc.h>\n", "#include <linux/delay.h>\n")
    tree.after(_FILE, "#include <linux/kvm_host.h>\n", "#include <linux/maple_tree.h>\n")
    tree.after(_FILE, "#include <linux/pagemap.h>\n", "#include <linux/swap.h>\n")
    tree.after(_FILE, "static struct vfsmount *kvm_gmem_mnt;\n", _PARAMETER)
    tree.after(
        _FILE,
        "	struct list_head gmem_file_list;\n\n	u64 flags;\n",
        "\n	/* Ranges of pages that are not what the flags say. */\n"
        "	struct maple_tree converted;\n",
    )
    tree.cut(
        _FILE,
        "static bool kvm_gmem_is_private_mem(struct inode *inode, pgoff_t index)\n",
        "\nstatic bool kvm_gmem_is_shared_mem(",
    )
    tree.before(_FILE, "\nstatic bool kvm_gmem_is_shared_mem(", ATTRIBUTE)
    tree.before(
        _FILE,
        "	if (GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED)\n"
        "		return KVM_FILTER_SHARED;\n",
        _FILTER,
    )
    tree.replace(
        _FILE,
        "static vm_fault_t kvm_gmem_fault_user_mapping(struct vm_fault *vmf)\n",
        TRIED_FOLIO + "static vm_fault_t __kvm_gmem_fault_user_mapping(struct vm_fault *vmf)\n",
    )
    tree.replace(
        _FILE,
        "	folio = kvm_gmem_get_folio(inode, vmf->pgoff);\n",
        "	folio = kvm_gmem_try_folio(inode, vmf->pgoff);\n",
    )
    tree.before(_FILE, "#ifdef CONFIG_NUMA\nstatic int kvm_gmem_set_policy(", HOST_FAULT)
    tree.before(_FILE, "static struct file_operations kvm_gmem_fops = {\n", CONVERSION)
    tree.after(
        _FILE,
        "	.fallocate	= kvm_gmem_fallocate,\n",
        "	.unlocked_ioctl	= kvm_gmem_ioctl,\n	.compat_ioctl	= compat_ptr_ioctl,\n",
    )
    tree.after(_FILE, "	gi->flags = 0;\n", _NEW_TREE)
    tree.after(_FILE, "	mpol_free_shared_policy(&GMEM_I(inode)->policy);\n", _OLD_TREE)


def _ask_the_file(tree: SourceEditor) -> None:
    """KVM's part: where it wants to know the attribute of a guest's page."""
    tree.after(_FILE, "EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_gmem_get_pfn);\n", ASKING)
    tree.before(
        _HOST,
        "	return kvm_get_memory_attributes(kvm, gfn) & KVM_MEMORY_ATTRIBUTE_PRIVATE;\n",
        "	if (kvm_gmem_keeps_attributes())\n		return kvm_gmem_is_private(kvm, gfn);\n\n",
    )
    tree.before(
        _MMU,
        "	/*\n	 * Now that we have a snapshot of mmu_invalidate_seq we can check for a\n",
        _LEAVING,
    )
    tree.before(
        _MMU, "	max_level = min(max_level, max_huge_page_level);\n	for (", _SMALL_PAGES
    )
