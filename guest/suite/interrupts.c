/* SPDX-License-Identifier: MIT */
/* Exceptions, and interrupts through the 8259A: lines that are set by hand, the timer, the clock. */
#include "suite.h"

#define LINE 5
#define PORT_LEVEL 0x4d0
#define PORT_CMOS_INDEX 0x70
#define PORT_CMOS_DATA 0x71
#define RTC_A 0x0a
#define RTC_B 0x0b
#define RTC_C 0x0c
#define RTC_IRQ 8
#define RTC_1024_HZ 0x26
#define RTC_PERIODIC 0x40
#define RTC_24_HOURS 0x02

static volatile unsigned int count;
static volatile uint8_t rtc_flags;

static void on_line(struct interrupt_frame *frame)
{
	(void)frame;
	count++;
	set_line(LINE, false);
	pic_end_of_interrupt(LINE);
}

static uint8_t rtc_read(uint8_t index)
{
	outb(PORT_CMOS_INDEX, index);
	return inb(PORT_CMOS_DATA);
}

static void rtc_write(uint8_t index, uint8_t value)
{
	outb(PORT_CMOS_INDEX, index);
	outb(PORT_CMOS_DATA, value);
}

static void on_clock(struct interrupt_frame *frame)
{
	(void)frame;
	rtc_flags = rtc_read(RTC_C);
	count++;
	pic_end_of_interrupt(RTC_IRQ);
}

static void exceptions(void)
{
	uint64_t zero = 0;

	catch_exceptions();
	check("#DE", ATTEMPT("div %0", "r"(zero), "a"(1), "d"(0)) == DIVIDE_ERROR);
	check("#UD", ATTEMPT("ud2", "r"(zero)) == INVALID_OPCODE);
	check("#GP of an address that is none",
	      ATTEMPT("mov (%0), %%r11", "r"(0x8000000000000000)) == GENERAL_PROTECTION &&
		      !caught_error);
	check("#GP with a selector", ATTEMPT("mov %0, %%fs", "r"(0x1230)) == GENERAL_PROTECTION &&
					     caught_error == 0x1230);
	check("no exception", ATTEMPT("nop", "r"(zero)) == NO_EXCEPTION);
}

static void lines(void)
{
	interrupt_handle(IRQ_BASE + LINE, on_line);
	set_line(LINE, true);
	take_interrupts(&count, 0);
	check("a masked line", count == 0);
	pic_unmask(LINE);
	take_interrupts(&count, 1);
	check("its edge is kept", count == 1);
	set_line(LINE, true);
	set_line(LINE, false);
	set_line(LINE, true);
	take_interrupts(&count, 2);
	check("two edges are one interrupt", count == 2);
	outb(PORT_LEVEL, 1 << LINE);
	check("level-triggered lines", inb(PORT_LEVEL) == 1 << LINE);
	set_line(LINE, true);
	set_line(LINE, false);
	take_interrupts(&count, 2);
	check("a level that has gone", count == 2);
	set_line(LINE, true);
	take_interrupts(&count, 3);
	check("a level that stays", count == 3);
	outb(PORT_LEVEL, 0);
}

static void timers(void)
{
	timer_start(1000);
	while (timer_ticks() < 5)
		wait_for_interrupt();
	check("the 8254 interrupts", timer_ticks() >= 5);
	outb(PORT_PIT_COMMAND, 0x30); /* no more of them */

	count = 0;
	interrupt_handle(IRQ_BASE + RTC_IRQ, on_clock);
	rtc_write(RTC_A, RTC_1024_HZ);
	rtc_read(RTC_C);
	pic_unmask(RTC_IRQ);
	rtc_write(RTC_B, RTC_24_HOURS | RTC_PERIODIC);
	while (count < 5)
		wait_for_interrupt();
	rtc_write(RTC_B, RTC_24_HOURS);
	check("the clock interrupts", (rtc_flags & 0xc0) == 0xc0);
}

int guest_main(void)
{
	exceptions();
	pic_init();
	lines();
	timers();
	return suite_end();
}
