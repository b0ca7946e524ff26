/* SPDX-License-Identifier: MIT */
/* Says hello, and what the machine looks like from in here. debugcon=1: on the debug console, too. */
#include "guest.h"

GUEST_NEEDS(0);

static void print_memory(void)
{
	size_t count;
	const struct memory_range *range = memory_map(&count);
	uint64_t usable = 0;

	for (; count; count--, range++) {
		/* QEMU counts the zero entry that ends its table. */
		if (!range->size)
			continue;
		print("memory %010lx-%010lx %s\n", range->start, range->start + range->size,
		      range->type == MEMORY_RAM ? "usable" : "reserved");
		if (range->type == MEMORY_RAM)
			usable += range->size;
	}
	print("usable memory: %lu KiB\n", usable >> 10);
}

static void print_modules(void)
{
	size_t count;
	const struct hvm_module *module = boot_modules(&count);

	for (; count; count--, module++)
		print("module %010lx-%010lx\n", module->start, module->start + module->size);
}

int guest_main(void)
{
	print("Hello from a pyvmm guest\n");
	print_memory();
	print_modules();
	print("command line: %s\n", command_line());
	if (guest_option("debugcon", 0))
		debug_print("Hello from the debug console\n");
	return EXIT_SUCCESS;
}
