# SPDX-License-Identifier: GPL-2.0-only
"""Text of the change ``in-place-conversion``: additions to guest_memfd.c, in their order there."""

from __future__ import annotations

ATTRIBUTE = """\
/*
 * The file's flags say what its memory is at first; the inode's tree has marks
 * on ranges that are otherwise now.  Written under the invalidate lock; a
 * reader without it has to be prepared for a conversion at any moment.
 */
static bool kvm_gmem_is_private_mem(struct inode *inode, pgoff_t index)
{
	bool at_first = !(GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED);

	return at_first != !!mtree_load(&GMEM_I(inode)->converted, index);
}
"""

TRIED_FOLIO = """\
/*
 * As kvm_gmem_get_folio(), but for those who have the invalidate lock: never wait
 * for a page that somebody has locked.  memory_failure() may have, when it asks
 * for the invalidate lock and a conversion stands before it in the queue.
 */
static struct folio *kvm_gmem_try_folio(struct inode *inode, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(inode->i_mapping, index);

	if (IS_ERR(folio))
		return kvm_gmem_get_folio(inode, index);

	if (folio_trylock(folio))
		return folio;

	folio_put(folio);
	return ERR_PTR(-EAGAIN);
}

"""

HOST_FAULT = """\
static vm_fault_t kvm_gmem_fault_user_mapping(struct vm_fault *vmf)
{
	struct address_space *mapping = file_inode(vmf->vma->vm_file)->i_mapping;
	struct folio *folio;
	vm_fault_t ret;

	for (;;) {
		/*
		 * The attribute stays until the page is locked; conversions
		 * look for pages that are.
		 */
		filemap_invalidate_lock_shared(mapping);
		ret = __kvm_gmem_fault_user_mapping(vmf);
		filemap_invalidate_unlock_shared(mapping);

		if (ret != VM_FAULT_RETRY)
			return ret;

		folio = filemap_get_folio(mapping, vmf->pgoff);
		if (!IS_ERR(folio)) {
			folio_wait_locked(folio);
			folio_put(folio);
		}
	}
}

"""

CONVERSION = """\
/*
 * How often, and how long (microseconds), a page is looked at again before it
 * is said to be held.  Faults in flight, of the host and of vCPUs, have
 * references for a moment.
 */
#define KVM_GMEM_HELD_LOOKS	20
#define KVM_GMEM_HELD_PAUSE	100

/*
 * True if no one but the page cache, and the caller's one reference, has the
 * folio.  Faults of the host that came before the invalidate lock map what they
 * return while they have the folio locked, so that there is nothing left to
 * come once the lock was had here.  Never wait for it: memory_failure() has it
 * when it asks for the invalidate lock.
 */
static bool kvm_gmem_folio_is_unused(struct address_space *mapping, struct folio *folio)
{
	bool unused;

	if (!folio_trylock(folio))
		return false;

	if (folio_mapped(folio))
		unmap_mapping_pages(mapping, folio->index, folio_nr_pages(folio), false);

	unused = folio_ref_count(folio) == folio_nr_pages(folio) + 1;

	folio_unlock(folio);
	return unused;
}

/*
 * Look for the first folio of a range, from *index on, that is in use.  Those
 * before it stay unused: the host cannot get at them any more, as its faults
 * wait for the invalidate lock.  What KVM itself takes does no harm.
 */
static bool kvm_gmem_find_used(struct address_space *mapping, pgoff_t *index, pgoff_t end)
{
	struct folio_batch batch;
	pgoff_t next = *index;
	bool used = false;
	unsigned int i;

	folio_batch_init(&batch);
	while (!used && filemap_get_folios(mapping, &next, end - 1, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !used; i++) {
			*index = batch.folios[i]->index;
			used = !kvm_gmem_folio_is_unused(mapping, batch.folios[i]);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	return used;
}

/*
 * Take a range away from the host: from all mappings of it, in every process.
 * Returns -EAGAIN, and the page in *held, if somebody got hold of a page by one
 * of them and still has it.
 */
static int kvm_gmem_take_from_host(struct address_space *mapping, pgoff_t start,
				   pgoff_t end, pgoff_t *held)
{
	int looks;

	unmap_mapping_pages(mapping, start, end - start, false);

	*held = start;
	for (looks = 0; looks < KVM_GMEM_HELD_LOOKS; looks++) {
		if (!kvm_gmem_find_used(mapping, held, end))
			return 0;

		/* Pages that are new wait, referenced, for their place in an LRU list. */
		if (!looks)
			lru_add_drain_all();
		else
			usleep_range(KVM_GMEM_HELD_PAUSE, 2 * KVM_GMEM_HELD_PAUSE);
	}
	return -EAGAIN;
}

/* True if each page of a range is private, or if each is shared. */
static bool kvm_gmem_range_is(struct inode *inode, pgoff_t start, pgoff_t end, void *mark)
{
	MA_STATE(mas, &GMEM_I(inode)->converted, start, start);

	while (mas_walk(&mas) == mark) {
		if (mas.last >= end - 1)
			return true;
		mas_set(&mas, mas.last + 1);
	}
	return false;
}

/*
 * Get ready to put a mark on a range, or to take it away, so that this cannot
 * fail any more.  Marks that touch become one; the tree does that for their
 * absence.
 */
static int kvm_gmem_prepare_mark(struct inode *inode, struct ma_state *mas,
				 pgoff_t start, pgoff_t end, void *mark)
{
	pgoff_t first = start, last = end - 1;

	if (mark && start) {
		mas_set(mas, start - 1);
		if (mas_walk(mas) == mark)
			first = mas->index;
	}
	if (mark && end) {
		mas_set(mas, end);
		if (mas_walk(mas) == mark)
			last = mas->last;
	}

	mas_set_range(mas, first, last);
	return mas_preallocate(mas, mark, GFP_KERNEL);
}

static int kvm_gmem_convert(struct inode *inode, pgoff_t start, pgoff_t end,
			    bool private, pgoff_t *held)
{
	bool at_first = !(GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED);
	void *mark = private == at_first ? NULL : xa_mk_value(1);
	struct address_space *mapping = inode->i_mapping;
	MA_STATE(mas, &GMEM_I(inode)->converted, start, end - 1);
	int r = 0;

	filemap_invalidate_lock(mapping);

	if (kvm_gmem_range_is(inode, start, end, mark))
		goto unlock;

	r = kvm_gmem_prepare_mark(inode, &mas, start, end, mark);
	if (r)
		goto unlock;

	/* From here to the end no vCPU maps any of it. */
	kvm_gmem_invalidate_start(inode, start, end);

	if (private)
		r = kvm_gmem_take_from_host(mapping, start, end, held);

	if (r)
		mas_destroy(&mas);
	else
		mas_store_prealloc(&mas, mark);

	kvm_gmem_invalidate_end(inode, start, end);
unlock:
	filemap_invalidate_unlock(mapping);
	return r;
}

static int kvm_gmem_set_attributes(struct file *file, void __user *argp)
{
	struct kvm_memory_attributes2 __user *user_attrs = argp;
	struct gmem_file *f = file->private_data;
	struct inode *inode = file_inode(file);
	struct kvm_memory_attributes2 attrs;
	u64 supported, end;
	pgoff_t held;
	int r;

	if (copy_from_user(&attrs, user_attrs, sizeof(attrs)))
		return -EFAULT;

	supported = kvm_gmem_supported_attributes(f->kvm);

	if (attrs.flags || memchr_inv(attrs.reserved, 0, sizeof(attrs.reserved)))
		return -EINVAL;
	if (attrs.attributes & ~supported)
		return -EINVAL;
	if (!attrs.size || check_add_overflow(attrs.offset, attrs.size, &end))
		return -EINVAL;
	if (!PAGE_ALIGNED(attrs.offset) || !PAGE_ALIGNED(attrs.size))
		return -EINVAL;
	if (end > i_size_read(inode))
		return -EINVAL;

	/* Memory that has no attributes has none of them: nothing to do. */
	if (!supported)
		return 0;

	r = kvm_gmem_convert(inode, attrs.offset >> PAGE_SHIFT, end >> PAGE_SHIFT,
			     attrs.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE, &held);
	if (r == -EAGAIN && put_user((u64)held << PAGE_SHIFT, &user_attrs->error_offset))
		return -EFAULT;

	return r;
}

static long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	if (ioctl == KVM_SET_MEMORY_ATTRIBUTES2 && kvm_gmem_keeps_attributes())
		return kvm_gmem_set_attributes(file, (void __user *)arg);

	return -ENOTTY;
}

bool __weak kvm_arch_converts_gmem_in_place(struct kvm *kvm)
{
	return false;
}

/* What memory of a VM's files can be; NULL asks for any VM. */
u64 kvm_gmem_supported_attributes(struct kvm *kvm)
{
	if (kvm_gmem_keeps_attributes() && kvm_arch_converts_gmem_in_place(kvm))
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

"""

ASKING = """
/*
 * Does the file behind a page of the guest's say that it is private?  Memory
 * whose file has been closed is not shared, as nobody could have mapped it.
 */
bool kvm_gmem_is_private(struct kvm *kvm, gfn_t gfn)
{
	struct kvm_memory_slot *slot;

	if (!kvm_arch_has_private_mem(kvm))
		return false;

	slot = gfn_to_memslot(kvm, gfn);
	if (!kvm_slot_has_gmem(slot))
		return false;

	CLASS(gmem_get_file, file)(slot);
	if (!file)
		return true;

	return kvm_gmem_is_private_mem(file_inode(file), kvm_gmem_get_index(slot, gfn));
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_gmem_is_private);
"""
