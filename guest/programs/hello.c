/* Says hello, and what the machine looks like from in here. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	size_t count;
	const struct memory_range *range = memory_map(&count);
	uint64_t usable = 0;

	print("Hello from a pyvmm guest\n");
	for (; count; count--, range++) {
		/* QEMU counts the zero entry that ends its table. */
		if (!range->size)
			continue;
		print("memory %010lx-%010lx %s\n", range->start, range->start + range->size,
		      range->type == MEMORY_RAM ? "usable" : "reserved");
		if (range->type == MEMORY_RAM)
			usable += range->size;
	}
	print("usable memory: %lu KiB\ncommand line: %s\n", usable >> 10, command_line());
	return EXIT_SUCCESS;
}
