/* SPDX-License-Identifier: MIT */
/* Exceptions and the timer. */
#include "cases.h"
#include "interrupts.h"

#define INVALID_OPCODE 6
#define UD2_BYTES 2
#define DEBUG 1
#define RFLAGS_TRAP 0x100
#define HZ 1000

GUEST_NEEDS(NEED_INTERRUPTS);

static unsigned int seen;

static void skip_ud2(struct interrupt_frame *frame)
{
	seen++;
	frame->rip += UD2_BYTES;
}

TEST_CASE(an_exception_is_its_handlers)
{
	interrupt_handle(INVALID_OPCODE, skip_ud2);
	seen = 0;
	__asm__ volatile("ud2\n\tud2" : : : "memory");
	check_eq(seen, 2);
	interrupt_handle(INVALID_OPCODE, NULL);
}

TEST_CASE(the_timer_ticks)
{
	pic_init();
	timer_start(HZ);
	while (timer_ticks() < 3)
		wait_for_interrupt();
	check_ge(timer_ticks(), 3);
}

static void step(struct interrupt_frame *frame)
{
	(void)frame;
	seen++;
}

/* A trap behind STI is as the interrupt that QEMU's TCG lets in there: nothing else is to come. */
TEST_CASE(a_wait_does_not_begin_behind_what_it_waits_for)
{
	interrupt_handle(DEBUG, step);
	seen = 0;
	__asm__ volatile("pushf\n\torl %0, (%%rsp)\n\tpopf" : : "i"(RFLAGS_TRAP) : "memory", "cc");
	wait_for_interrupt();
	__asm__ volatile("pushf\n\tandl %0, (%%rsp)\n\tpopf" : : "i"(~RFLAGS_TRAP) : "memory", "cc");
	check_ge(seen, 3);
	interrupt_handle(DEBUG, NULL);
}
