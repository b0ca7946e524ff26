/* Sends back what it receives, byte for byte, until end of file. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	for (;;) {
		int byte = console_read();

		if (byte == CONSOLE_END_OF_FILE)
			return EXIT_SUCCESS;
		if (byte >= 0) {
			char character = (char)byte;

			console_write(&character, 1);
			continue;
		}
		if (console_hung_up()) {
			/* A byte may have arrived in between: hung up means none ever will. */
			byte = console_read();
			if (byte < 0)
				return EXIT_SUCCESS;
			char character = (char)byte;

			console_write(&character, 1);
		}
		pause();
	}
}
