/* SPDX-License-Identifier: MIT */
/* The end of a run, wanted or not. */
#include "guest.h"

void guest_exit(uint8_t status)
{
	console_drain();
	outb(PORT_EXIT, status);
	halt();
}

void panic(const char *format, ...)
{
	__builtin_va_list arguments;

	interrupts_off();
	print("PANIC: ");
	__builtin_va_start(arguments, format);
	print_arguments(format, arguments);
	__builtin_va_end(arguments);
	print("\n");
	console_drain();

	uint8_t events = inb(PORT_PVPANIC);

	if (events != 0xff && events & PVPANIC_PANICKED)
		outb(PORT_PVPANIC, PVPANIC_PANICKED);
	guest_exit(EXIT_PANIC);
}
