/* SPDX-License-Identifier: MIT */
/* Every processor that fw_cfg tells of is started, counts, and takes interrupts from the first. */
#include "apic.h"
#include "suite.h"

#define MOST_PROCESSORS 64
#define STARTUP_PAGE 0x10
#define ROUNDS 1000
#define VECTOR 0x2e
#define SPURIOUS 0x2f

extern char startup_code[], startup_code_end[];
_Noreturn void processor_main(void);

char stacks[MOST_PROCESSORS * 4096] __attribute__((aligned(16)));
uint64_t stacks_taken;

static unsigned int arrived, counted, interrupted, leave;
static uint64_t seen;

static void on_interrupt(struct interrupt_frame *frame)
{
	(void)frame;
	__atomic_add_fetch(&interrupted, 1, __ATOMIC_SEQ_CST);
	apic_write(APIC_END_OF_INTERRUPT, 0);
}

void processor_main(void)
{
	interrupts_load();
	apic_write(APIC_SPURIOUS, APIC_SPURIOUS_ENABLE | SPURIOUS);
	__atomic_or_fetch(&seen, 1UL << (apic_read(APIC_ID) >> 24), __ATOMIC_SEQ_CST);
	for (unsigned int round = 0; round < ROUNDS; round++)
		__atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&leave, __ATOMIC_SEQ_CST))
		wait_for_interrupt();
	halt();
}

static void until(const unsigned int *value, unsigned int wanted)
{
	while (__atomic_load_n(value, __ATOMIC_SEQ_CST) < wanted)
		pause();
}

int guest_main(void)
{
	unsigned int processors = (unsigned int)fw_cfg_number(FW_CFG_CPUS, 2);
	unsigned int others = processors - 1;

	print("%u processors\n", processors);
	check("no more than are made for", processors && processors <= MOST_PROCESSORS);
	interrupt_handle(VECTOR, on_interrupt);
	pic_init();
	apic_write(APIC_SPURIOUS, APIC_SPURIOUS_ENABLE | SPURIOUS);
	for (char *from = startup_code; from < startup_code_end; from++)
		((char *)(STARTUP_PAGE << 12))[from - startup_code] = *from;
	apic_write(APIC_COMMAND, COMMAND_INIT | COMMAND_OTHERS);
	wait_microseconds(10000);
	apic_write(APIC_COMMAND, COMMAND_STARTUP | COMMAND_OTHERS | STARTUP_PAGE);
	until(&arrived, others);
	check("all have started", arrived == others);
	check("each with its own APIC ID", seen == (~0UL >> (64 - processors)) - 1);
	check("no count is lost", counted == others * ROUNDS);
	apic_write(APIC_COMMAND, COMMAND_FIXED | COMMAND_OTHERS | VECTOR);
	until(&interrupted, others);
	check("an interrupt for each", interrupted == others);
	return suite_end();
}
