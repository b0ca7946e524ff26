/* SPDX-License-Identifier: MIT */
#include "suite.h"

#define PORT_PIT_CHANNEL2 0x42
#define PORT_B 0x61
#define PORT_B_GATE 0x01
#define PORT_B_OUTPUT 0x20
#define CHANNEL2_LOW_HIGH_ONE_SHOT 0xb0

static unsigned int failures;
volatile uint64_t caught_vector, caught_error;
uint64_t resume_at;

void check(const char *name, bool holds)
{
	print("%s %s\n", holds ? "ok  " : "FAIL", name);
	failures += !holds;
}

int suite_end(void)
{
	print("%u failed\n", failures);
	return failures < EXIT_PANIC ? (int)failures : EXIT_PANIC - 1;
}

uint64_t fw_cfg_number(uint16_t key, unsigned int bytes)
{
	uint64_t value = 0;

	outw(PORT_FW_CFG, key);
	for (unsigned int at = 0; at < bytes; at++)
		value |= (uint64_t)inb(PORT_FW_CFG + 1) << 8 * at;
	return value;
}

void wait_microseconds(unsigned int microseconds)
{
	unsigned int count = (unsigned int)((uint64_t)microseconds * PIT_HZ / 1000000);

	assert(count && count <= 0xffff);
	outb(PORT_B, (uint8_t)((inb(PORT_B) & ~2u) | PORT_B_GATE));
	outb(PORT_PIT_COMMAND, CHANNEL2_LOW_HIGH_ONE_SHOT);
	outb(PORT_PIT_CHANNEL2, (uint8_t)count);
	outb(PORT_PIT_CHANNEL2, (uint8_t)(count >> 8));
	while (!(inb(PORT_B) & PORT_B_OUTPUT))
		pause();
}

void take_interrupts(const volatile unsigned int *count, unsigned int wanted)
{
	__asm__ volatile("sti" : : : "memory");
	for (unsigned int tries = 0; *count < wanted && tries < 500; tries++)
		wait_microseconds(2000);
	wait_microseconds(2000);
	interrupts_off();
}

static void on_exception(struct interrupt_frame *frame)
{
	caught_vector = frame->vector;
	caught_error = frame->error_code;
	frame->rip = resume_at;
}

void catch_exceptions(void)
{
	static const uint8_t vectors[] = {DIVIDE_ERROR, BREAKPOINT, INVALID_OPCODE,
					  GENERAL_PROTECTION, PAGE_FAULT};

	for (size_t at = 0; at < sizeof(vectors); at++)
		interrupt_handle(vectors[at], on_exception);
}
