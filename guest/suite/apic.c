/* SPDX-License-Identifier: MIT */
/* The local APIC by itself, and the I/O APIC with lines that are set by hand. */
#include "apic.h"
#include "suite.h"

#define LINE 14
#define OTHER_LINE 15
#define VECTOR 0x2e
#define HIGHER_VECTOR 0x2f /* of the same priority class; the library has no more vectors */
#define LIBRARY_SPURIOUS 0x2f

static volatile unsigned int count, order;

static void on_interrupt(struct interrupt_frame *frame)
{
	count++;
	order = order << 8 | (unsigned int)frame->vector;
	apic_write(APIC_END_OF_INTERRUPT, 0);
}

static void on_level(struct interrupt_frame *frame)
{
	(void)frame;
	count++;
	if (count == 2)
		set_line(LINE, false);
	apic_write(APIC_END_OF_INTERRUPT, 0);
}

static void local(void)
{
	check("local APIC: version", (apic_read(APIC_VERSION) & 0xf0) == 0x10);
	check("local APIC: the first", apic_read(APIC_ID) >> 24 == 0);
	apic_write(APIC_SPURIOUS, APIC_SPURIOUS_ENABLE | LIBRARY_SPURIOUS);
	apic_write(APIC_COMMAND, COMMAND_FIXED | COMMAND_SELF | VECTOR);
	check("an interrupt waits", count == 0);
	take_interrupts(&count, 1);
	check("and comes", count == 1 && (order & 0xff) == VECTOR);
	check("it is over", !apic_read(APIC_IN_SERVICE + 0x10));
	apic_write(APIC_TIMER_DIVIDE, 0x0b);
	apic_write(APIC_TIMER, VECTOR);
	apic_write(APIC_TIMER_COUNT, 100000);
	while (count < 2)
		wait_for_interrupt();
	check("the timer interrupts once", count == 2 && !apic_read(APIC_TIMER_NOW));
}

static void io(void)
{
	unsigned int before;

	check("I/O APIC: 24 pins", (ioapic_read(IOAPIC_VERSION) >> 16 & 0xff) == 23);
	count = order = 0;
	ioapic_write(IOAPIC_ENTRY(LINE) + 1, 0);
	ioapic_write(IOAPIC_ENTRY(LINE), VECTOR);
	ioapic_write(IOAPIC_ENTRY(OTHER_LINE) + 1, 0);
	ioapic_write(IOAPIC_ENTRY(OTHER_LINE), HIGHER_VECTOR);
	set_line(LINE, true);
	set_line(LINE, false);
	take_interrupts(&count, 1);
	check("an edge", count == 1);
	set_line(LINE, true);
	set_line(LINE, false);
	set_line(OTHER_LINE, true);
	set_line(OTHER_LINE, false);
	take_interrupts(&count, 3);
	check("the higher vector first", count == 3 && (order & 0xffff) == (HIGHER_VECTOR << 8 | VECTOR));
	ioapic_write(IOAPIC_ENTRY(LINE), VECTOR | ENTRY_MASKED);
	set_line(LINE, true);
	take_interrupts(&count, 3);
	check("a masked pin", count == 3);
	set_line(LINE, false);

	count = 0;
	interrupt_handle(VECTOR, on_level);
	ioapic_write(IOAPIC_ENTRY(LINE), VECTOR | ENTRY_LEVEL);
	set_line(LINE, true);
	take_interrupts(&count, 2);
	check("a level interrupts again", count >= 2);
	/* KVM may have had a third one on the way. */
	before = count;
	take_interrupts(&count, 0);
	check("until it goes", count == before);
	check("nothing is left of it", !(ioapic_read(IOAPIC_ENTRY(LINE)) & ENTRY_REMOTE_IRR));
}

int guest_main(void)
{
	pic_init(); /* all masked; it has handlers for its spurious interrupts, one of them here */
	interrupt_handle(VECTOR, on_interrupt);
	interrupt_handle(HIGHER_VECTOR, on_interrupt);
	local();
	io();
	return suite_end();
}
