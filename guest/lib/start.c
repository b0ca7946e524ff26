/* From the entry code to the program. */
#include "guest.h"
#include "interrupts.h"

_Noreturn void guest_start(const struct hvm_start_info *info);

void guest_start(const struct hvm_start_info *info)
{
	interrupts_init();
	boot_init(info);
	guest_exit((uint8_t)guest_main());
}
