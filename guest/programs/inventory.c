/* SPDX-License-Identifier: MIT */
/*
 * Prints what it sees of its machine, for comparisons: the memory map, and what CPUID answers, leaves
 * that are all zero left out. The lines are what pyvmm/compare/inventory.py reads:
 *
 *	memory START-END usable|reserved|type N
 *	cpuid LEAF.SUBLEAF EAX EBX ECX EDX
 */
#include "guest.h"
#include "private.h"

#define CPUID_HYPERVISOR 0x40000000
#define CPUID_EXTENDED 0x80000000
#define LEAVES_MAX 0x40
#define SUBLEAVES_MAX 8

/* Leaves whose answer depends on the subleaf (SDM vol. 2A, CPUID). */
#define CACHES 0x4
#define FEATURES 0x7
#define TOPOLOGY 0xb
#define XSAVE 0xd

GUEST_NEEDS(0);

static void print_memory(void)
{
	size_t count;
	const struct memory_range *range = memory_map(&count);

	for (; count; count--, range++) {
		/* QEMU counts the zero entry that ends its table. */
		if (!range->size)
			continue;
		print("memory %010lx-%010lx ", range->start, range->start + range->size);
		if (range->type == MEMORY_RAM)
			print("usable\n");
		else if (range->type == MEMORY_RESERVED)
			print("reserved\n");
		else
			print("type %u\n", range->type);
	}
}

static uint32_t subleaves_of(uint32_t leaf)
{
	switch (leaf) {
	case CACHES:
	case TOPOLOGY:
		return SUBLEAVES_MAX;
	case FEATURES:
	case XSAVE:
		return 2;
	default:
		return 1;
	}
}

static void print_leaf(uint32_t leaf)
{
	for (uint32_t subleaf = 0; subleaf < subleaves_of(leaf); subleaf++) {
		struct cpuid answer = cpuid(leaf, subleaf);

		/* Leaves that nobody has are all zero, and so is what follows the last subleaf. */
		if (!(answer.eax | answer.ebx | answer.ecx | answer.edx) ||
		    (subleaf && !(answer.eax | answer.ebx)))
			return;
		print("cpuid %08x.%x %08x %08x %08x %08x\n", leaf, subleaf, answer.eax, answer.ebx,
		      answer.ecx, answer.edx);
	}
}

static void print_leaves(uint32_t first)
{
	uint32_t last = cpuid(first, 0).eax;

	/* Where a range is missing, what comes back is another leaf's, or zero. */
	if (last < first || last - first >= LEAVES_MAX)
		last = first;
	for (uint32_t leaf = first; leaf <= last; leaf++)
		print_leaf(leaf);
}

int guest_main(void)
{
	print_memory();
	/* After a private launch CPUID is out of reach (private.h). */
	if (!launch_info()) {
		print_leaves(0);
		print_leaves(CPUID_HYPERVISOR);
		print_leaves(CPUID_EXTENDED);
	}
	print("command line: %s\n", command_line());
	return EXIT_SUCCESS;
}
