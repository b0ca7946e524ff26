# SPDX-License-Identifier: GPL-2.0-only
"""guest_memfd by the design of a mail of August 2023: memslots pin the file, no file pins a VM.

The design is told in docs/lifetime.md (`memslot-pins-file`); this is what it takes in Linux 7.3:

- ``KVM_CREATE_GUEST_MEMFD`` is an ioctl of /dev/kvm, too. Either makes a file that is no VM's.
- A memslot keeps the reference on the file that binding it takes; deleting it drops that.
- The first binding sets the file's VM pointer, under the invalidate lock; the last unbinding clears
  it. In between, another VM's binding is EINVAL.
- A file's release has nothing to tidy up: no binding can be left.
- A dying VM gives up its bindings while it still has an MMU, and not, as Linux does, behind it.

Each remedy of the discussion is a parameter of kvm that root can write at any time; it acts on what
happens from then on. All are off at first:

- ``gmem_never_rebind``: the last unbinding leaves the VM pointer, a bare address that is compared.
- ``gmem_zero_at_unbinding``: the last unbinding gives the file's pages back.
- ``gmem_zero_at_rebinding``: a binding to another VM than the last one's gives them back.
- ``gmem_owner_in_inode``: only the first VM that ever bound the file can bind it again. VMs are
  told apart by a number that is never used twice.
- ``gmem_judge_flags``: a binding refuses a file with flags that the VM's type cannot have.

Left out: SEV-SNP and TDX, for whose memory the design is not sufficient with any remedy (nothing
here refuses them); VMs of one virtual machine, as SEV's helpers, which would have to share a
number. What a file has been through while a parameter was off is not made good when it is set.
"""

from __future__ import annotations

from pyvmm.lab.kernel.source_editor import SourceEditor

FITS = "7.3"
ABOUT = "memslots pin their guest_memfd, and no file pins a VM; remedies are parameters of kvm"

_FILE = "virt/kvm/guest_memfd.c"
_MAIN = "virt/kvm/kvm_main.c"
_HEADER = "virt/kvm/guest_memfd.h"
_HOST = "include/linux/kvm_host.h"

_PARAMETERS = """\
/*
 * Remedies against contents that reach a second VM.  What a file's inode
 * remembers of its VMs it remembers whether or not a parameter is set.
 */
static bool gmem_never_rebind;
module_param(gmem_never_rebind, bool, 0644);
MODULE_PARM_DESC(gmem_never_rebind, "A file stays with the VM pointer of its first binding");

static bool gmem_zero_at_unbinding;
module_param(gmem_zero_at_unbinding, bool, 0644);
MODULE_PARM_DESC(gmem_zero_at_unbinding, "The last unbinding gives a file's pages back");

static bool gmem_zero_at_rebinding;
module_param(gmem_zero_at_rebinding, bool, 0644);
MODULE_PARM_DESC(gmem_zero_at_rebinding, "A binding to another VM gives a file's pages back");

static bool gmem_owner_in_inode;
module_param(gmem_owner_in_inode, bool, 0644);
MODULE_PARM_DESC(gmem_owner_in_inode, "Only the first VM of a file can bind it again");

static bool gmem_judge_flags;
module_param(gmem_judge_flags, bool, 0644);
MODULE_PARM_DESC(gmem_judge_flags, "A binding refuses flags that the VM's type has not got");

/* Identities of VMs: other than addresses, they do not come back. */
u64 kvm_gmem_new_vm_id(void)
{
	static atomic64_t newest;

	return atomic64_inc_return(&newest);
}

"""

_BINDING = """\
/*
 * All of a file's bindings and its VM pointer are read and written under the
 * invalidate lock.
 */
static int kvm_gmem_may_bind(struct kvm *kvm, struct gmem_file *f, struct inode *inode)
{
	struct gmem_inode *gi = GMEM_I(inode);

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	if (f->kvm && f->kvm != kvm)
		return -EINVAL;

	if (gmem_owner_in_inode && gi->owner && gi->owner != kvm->gmem_id)
		return -EINVAL;

	if (gmem_judge_flags && (gi->flags & ~kvm_gmem_get_supported_flags(kvm)))
		return -EINVAL;

	return 0;
}

/*
 * Give all pages back, so that the next access finds zeroes.  There is no
 * guest to be told: none has a page of a file that no slot is bound to.
 */
static void kvm_gmem_drop_contents(struct inode *inode)
{
	truncate_inode_pages(inode->i_mapping, 0);
}

/* Nothing can fail any more: the slot is stored, though nobody sees it yet. */
static void kvm_gmem_note_binding(struct kvm *kvm, struct gmem_file *f, struct inode *inode)
{
	struct gmem_inode *gi = GMEM_I(inode);

	f->kvm = kvm;

	if (!gi->owner)
		gi->owner = kvm->gmem_id;

	if (gmem_zero_at_rebinding && gi->last_vm && gi->last_vm != kvm->gmem_id)
		kvm_gmem_drop_contents(inode);
	gi->last_vm = kvm->gmem_id;
}

static void kvm_gmem_note_unbinding(struct gmem_file *f, struct inode *inode)
{
	if (!xa_empty(&f->bindings))
		return;

	if (gmem_zero_at_unbinding)
		kvm_gmem_drop_contents(inode);

	/* The pointer that stays is compared, and never followed. */
	if (!gmem_never_rebind)
		f->kvm = NULL;
}

"""

_JUDGEMENT = """\
	r = kvm_gmem_may_bind(kvm, f, inode);
	if (r) {
		filemap_invalidate_unlock(inode->i_mapping);
		return r;
	}

"""

_NOTE = """\
	if (!r)
		kvm_gmem_note_binding(kvm, f, inode);

"""

_RELEASE = """\
static int kvm_gmem_release(struct inode *inode, struct file *file)
{
	struct gmem_file *f = file->private_data;

	/*
	 * Each slot has a reference on its file: here there is none any more.
	 * The lock is for those who walk the inode's files, e.g. because of an
	 * error on a page, which takes no reference on any of them.
	 */
	filemap_invalidate_lock(inode->i_mapping);
	WARN_ON_ONCE(!xa_empty(&f->bindings));
	list_del(&f->entry);
	filemap_invalidate_unlock(inode->i_mapping);

	xa_destroy(&f->bindings);
	kfree(f);

	return 0;
}

/*
 * The slot's reference keeps the file, and slots_lock or kvm->srcu the slot.
 * A VM that is being destroyed has slots without a file.
 */
static inline struct file *kvm_gmem_get_file(struct kvm_memory_slot *slot)
{
	struct file *file = READ_ONCE(slot->gmem.file);

	return file ? get_file(file) : NULL;
}

"""

_UNBIND = """\
void kvm_gmem_unbind(struct kvm_memory_slot *slot)
{
	struct file *file = slot->gmem.file;
	unsigned long start = slot->gmem.pgoff;
	unsigned long end = start + slot->npages;
	struct gmem_file *f;

	/* Nothing is left to do where the VM is being destroyed. */
	if (!file)
		return;

	f = file->private_data;

	filemap_invalidate_lock(file->f_mapping);
	xa_store_range(&f->bindings, start, end - 1, NULL, GFP_KERNEL);
	kvm_gmem_note_unbinding(f, file_inode(file));

	/* No vCPU sees the slot any more: synchronize_srcu(), or there is none. */
	WRITE_ONCE(slot->gmem.file, NULL);
	filemap_invalidate_unlock(file->f_mapping);

	fput(file);
}

/*
 * A dying VM's files may be anybody's by now.  Who punches a hole there walks
 * their bindings and invalidates the VM's MMU, so that they have to go before
 * the MMU does.  No vCPU can fault anything in again: none holds the VM.
 */
void kvm_gmem_unbind_all(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int i, bkt;

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i)) {
			pgoff_t start = slot->gmem.pgoff;
			pgoff_t end = start + slot->npages;
			struct gmem_file *f;
			struct inode *inode;

			if (!kvm_slot_has_gmem(slot))
				continue;

			f = slot->gmem.file->private_data;
			inode = file_inode(slot->gmem.file);

			filemap_invalidate_lock(inode->i_mapping);
			__kvm_gmem_invalidate_start(f, start, end,
						    kvm_gmem_get_invalidate_filter(inode));
			__kvm_gmem_invalidate_end(f, start, end);
			filemap_invalidate_unlock(inode->i_mapping);

			kvm_gmem_unbind(slot);
		}
	}
}

"""

_SYSTEM_IOCTL = """\
#ifdef CONFIG_KVM_GUEST_MEMFD
	case KVM_CREATE_GUEST_MEMFD: {
		struct kvm_create_guest_memfd guest_memfd;

		r = -EFAULT;
		if (copy_from_user(&guest_memfd, (void __user *)arg, sizeof(guest_memfd)))
			goto out;

		r = kvm_gmem_create(NULL, &guest_memfd);
		break;
	}
#endif
"""


def change(tree: SourceEditor) -> None:
    """Turn the references of guest_memfd around. Raises `ChangeDoesNotFitError`."""
    _change_objects(tree)
    _change_creation(tree)
    _change_binding(tree)
    _change_ending(tree)


def _change_objects(tree: SourceEditor) -> None:
    """Give VMs an identity, and inodes the memory of two."""
    tree.before(
        _HOST,
        "\tunsigned long nr_memslot_pages;\n",
        "#ifdef CONFIG_KVM_GUEST_MEMFD\n\tu64 gmem_id;\n#endif\n",
    )
    tree.after(
        _MAIN,
        "\tkvm->mm = current->mm;\n",
        "#ifdef CONFIG_KVM_GUEST_MEMFD\n\tkvm->gmem_id = kvm_gmem_new_vm_id();\n#endif\n",
    )
    tree.after(
        _HEADER,
        "void kvm_gmem_exit(void);\n",
        "u64 kvm_gmem_new_vm_id(void);\nvoid kvm_gmem_unbind_all(struct kvm *kvm);\n",
    )
    tree.after(
        _FILE,
        "\tstruct list_head gmem_file_list;\n",
        "\n\t/* The VM that bound the memory first, and the last one; 0: none. */\n"
        "\tu64 owner;\n\tu64 last_vm;\n",
    )
    tree.after(_FILE, "\tgi->flags = 0;\n", "\tgi->owner = 0;\n\tgi->last_vm = 0;\n")
    tree.before(_FILE, "static __always_inline struct gmem_inode *GMEM_I(", _PARAMETERS)


def _change_creation(tree: SourceEditor) -> None:
    """Create files for no VM."""
    tree.replace(_FILE, "\tkvm_get_kvm(kvm);\n\tf->kvm = kvm;\n", "")
    tree.before(_MAIN, "\tdefault:\n\t\treturn kvm_arch_dev_ioctl(", _SYSTEM_IOCTL)


def _change_binding(tree: SourceEditor) -> None:
    """Let a slot keep its reference; judge and note its VM under the invalidate lock."""
    variables = "\tstruct inode *inode;\n\tstruct file *file;\n\n"
    tree.replace(_FILE, f"\tstruct gmem_file *f;\n{variables}\n", variables)
    tree.replace(_FILE, "\tf = file->private_data;\n\tif (f->kvm != kvm)\n\t\tgoto err;\n\n", "")
    tree.replace(
        _FILE,
        "The reference will be\n\t * dropped after bindings are established, or if",
        "The slot keeps\n\t * it until it is unbound; the caller drops it if",
    )
    tree.before(_FILE, "int kvm_gmem_commit_memory_region(", _BINDING)
    tree.before(_FILE, "\tif (!xa_empty(&f->bindings) &&\n", _JUDGEMENT)
    tree.before(_FILE, "\tfilemap_invalidate_unlock(inode->i_mapping);\n\n\treturn r;\n", _NOTE)
    tree.replace(
        _MAIN,
        "Drop the reference to the gmem file, even on success.  The file pins\n"
        "\t * KVM, not the other way 'round.  Active bindings are invalidated if\n"
        "\t * the file is closed before memslots are destroyed.\n",
        "The slot keeps its reference to the gmem file, unless there will be\n\t * no such slot.\n",
    )
    tree.replace(_MAIN, "\t\tfput(new->gmem.file);\n", "\t\tif (r)\n\t\t\tfput(new->gmem.file);\n")


def _change_ending(tree: SourceEditor) -> None:
    """Let deleted slots, and a dying VM's, drop their files; leave nothing to a file's release."""
    name = "DEFINE_CLASS(gmem_get_file,"
    tree.cut(_FILE, "static int kvm_gmem_release(", name)
    tree.before(_FILE, name, _RELEASE)
    tree.cut(_FILE, "void kvm_gmem_unbind(", "/* Returns a locked folio on success.  */")
    tree.before(_FILE, "/* Returns a locked folio on success.  */", _UNBIND)
    tree.before(
        _MAIN,
        "\tmmu_notifier_unregister(&kvm->mmu_notifier, kvm->mm);\n",
        "#ifdef CONFIG_KVM_GUEST_MEMFD\n\tkvm_gmem_unbind_all(kvm);\n#endif\n",
    )
