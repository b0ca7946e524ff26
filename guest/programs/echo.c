/* SPDX-License-Identifier: MIT */
/* Sends back what it receives, byte for byte, until end of file. */
#include "guest.h"

GUEST_NEEDS(0);

/* -1 at the end of file. */
static int next_byte(void)
{
	int byte;

	while ((byte = console_read()) < 0) {
		if (console_hung_up())
			/* One may have arrived since we looked; after this look, none ever will. */
			return console_read();
		pause();
	}
	return byte == CONSOLE_END_OF_FILE ? -1 : byte;
}

int guest_main(void)
{
	int byte;

	while ((byte = next_byte()) >= 0) {
		char character = (char)byte;

		console_write(&character, 1);
	}
	return EXIT_SUCCESS;
}
