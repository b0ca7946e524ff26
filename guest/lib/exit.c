/* SPDX-License-Identifier: MIT */
/* The end of a run, wanted or not. */
#include "guest.h"

void guest_exit(uint8_t status)
{
	console_drain();
	outb(PORT_EXIT, status);
	halt();
}

void guest_crash(void)
{
	console_drain();

	uint8_t events = inb(PORT_PVPANIC);

	if (events != 0xff && events & PVPANIC_PANICKED)
		outb(PORT_PVPANIC, PVPANIC_PANICKED);
	guest_exit(EXIT_PANIC);
}
