/* SPDX-License-Identifier: MIT */
/* What the firmware of a private launch says of the machine. */
#include "guest.h"
#include "private.h"

#define AT(field, offset)                                                                          \
	_Static_assert(offsetof(struct launch_info, field) == (offset), #field " is elsewhere")

AT(cpus, LAUNCH_INFO_CPUS);
AT(hypercall, LAUNCH_INFO_HYPERCALL);
AT(page_level, LAUNCH_INFO_PAGE_LEVEL);
AT(flags, LAUNCH_INFO_FLAGS);
AT(window_gpa, LAUNCH_INFO_WINDOW_GPA);
AT(window_size, LAUNCH_INFO_WINDOW_SIZE);
AT(digest, LAUNCH_INFO_DIGEST);
AT(parked, LAUNCH_INFO_PARKED);

static const struct launch_info *launch;

void private_init(const struct launch_info *info)
{
	if (info && info->magic != LAUNCH_INFO_MAGIC)
		panic("no launch info at 0x%lx: magic 0x%lx", (uint64_t)info, info->magic);
	launch = info;
}

const struct launch_info *launch_info(void)
{
	return launch;
}

bool memory_is_private(void)
{
	return launch && launch->flags & LAUNCH_INFO_PRIVATE;
}
