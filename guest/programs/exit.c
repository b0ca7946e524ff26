/* Ends with the status that the command line names. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	return (int)guest_number(EXIT_SUCCESS);
}
