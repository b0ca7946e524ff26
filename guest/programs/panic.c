/* SPDX-License-Identifier: MIT */
/* Panics. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	panic("asked to (%s)", command_line());
}
