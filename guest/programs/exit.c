/* SPDX-License-Identifier: MIT */
/* Ends with the status that the command line names. */
#include "guest.h"

GUEST_NEEDS(0);

/* What the exit port takes; pyvmm has no answer to more than EXIT_STATUS_MAX. */
#define WRITABLE_MAX 255

static bool is_digit(char character)
{
	return character >= '0' && character <= '9';
}

/* The first word that is a number, its sign included; NULL where there is none. */
static const char *first_number(const char *text)
{
	bool at_start = true;

	for (; *text; text++) {
		if (at_start && (is_digit(*text) || (*text == '-' && is_digit(text[1]))))
			return text;
		at_start = *text == ' ';
	}
	return NULL;
}

int guest_main(void)
{
	const char *number = first_number(command_line());
	unsigned int status = EXIT_SUCCESS;

	if (!number)
		return EXIT_SUCCESS;
	for (const char *digit = number; status <= WRITABLE_MAX && is_digit(*digit); digit++)
		status = status * 10 + (unsigned int)(*digit - '0');
	if (*number != '-' && status <= WRITABLE_MAX)
		return (int)status;
	print("exit: out of range, a status is 0 to %u: %s\n", EXIT_STATUS_MAX, number);
	return WRITABLE_MAX;
}
