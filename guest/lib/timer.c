/* SPDX-License-Identifier: MIT */
/* The 8254 interval timer's channel 0, which is IRQ 0 (Intel 8254 data sheet). */
#include "guest.h"
#include "interrupts.h"

#define TIMER_IRQ 0
#define CHANNEL0_LOW_HIGH_RATE_GENERATOR 0x34

static volatile uint64_t ticks;

static void on_tick(struct interrupt_frame *frame)
{
	(void)frame;
	ticks++;
	pic_end_of_interrupt(TIMER_IRQ);
}

void timer_start(unsigned int hz)
{
	unsigned int divisor = PIT_HZ / hz;

	assert(divisor >= 2 && divisor <= 0xffff);
	interrupt_handle(IRQ_BASE + TIMER_IRQ, on_tick);
	outb(PORT_PIT_COMMAND, CHANNEL0_LOW_HIGH_RATE_GENERATOR);
	outb(PORT_PIT_CHANNEL0, (uint8_t)divisor);
	outb(PORT_PIT_CHANNEL0, (uint8_t)(divisor >> 8));
	pic_unmask(TIMER_IRQ);
}

uint64_t timer_ticks(void)
{
	return ticks;
}
