/* SPDX-License-Identifier: MIT */
/* Does what the host asks for through a page that both share (mailbox.h), until it has had enough. */
#include "guest.h"
#include "mailbox.h"
#include "private.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	mailbox_open();

	uint64_t status = mailbox_serve();

	print("the host has asked for the end, status %lu\n", status);
	return (int)(status & EXIT_STATUS_MAX);
}
