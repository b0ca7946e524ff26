/* SPDX-License-Identifier: MIT */
/* Private memory (Documentation/virt/kvm/x86/hypercalls.rst, KVM_HC_MAP_GPA_RANGE). */
#include "private.h"
#include "guest.h"
#include "hypercall.h"

bool private_memory_needed(void)
{
	if (!memory_is_private())
		print("this guest needs private memory\n");
	return memory_is_private();
}

int64_t memory_convert(uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	/* Where nobody takes hypercalls, the instruction may be one that never ends. */
	if (!memory_is_private())
		return CONVERSION_UNKNOWN;
	return hypercall(HYPERCALL_MAP_GPA_RANGE, gpa, pages, attributes);
}

static int64_t convert_bytes(uint64_t gpa, uint64_t size, uint64_t attributes)
{
	if (size % PAGE_SIZE)
		return CONVERSION_INVALID;
	return memory_convert(gpa, size / PAGE_SIZE, attributes);
}

int64_t memory_share(uint64_t gpa, uint64_t size)
{
	return convert_bytes(gpa, size, 0);
}

int64_t memory_unshare(uint64_t gpa, uint64_t size)
{
	return convert_bytes(gpa, size, MAP_GPA_RANGE_PRIVATE);
}

bool contents_survive(void)
{
	return guest_option("in-place", 0);
}

void *shared_memory(uint64_t size)
{
	struct span span;

	if (!memory_take(size, PAGE_SIZE, &span) ||
	    memory_share(span.start, span.end - span.start))
		panic("there is no memory to be shared with the device");
	return (void *)span.start;
}

struct span shared_window(void)
{
	const struct launch_info *launch = launch_info();

	if (!launch)
		return (struct span){0, 0};
	return (struct span){launch->window_gpa, launch->window_gpa + launch->window_size};
}
