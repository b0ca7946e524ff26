/* SPDX-License-Identifier: MIT */
/* From the entry code to the program. */
#include "guest.h"
#include "interrupts.h"
#include "private.h"

_Noreturn void guest_start(const struct hvm_start_info *info, const struct launch_info *launch);

void guest_start(const struct hvm_start_info *info, const struct launch_info *launch)
{
	interrupts_init();
	private_init(launch);
	boot_init(info);
	guest_exit((uint8_t)guest_main());
}
