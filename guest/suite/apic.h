/* SPDX-License-Identifier: MIT */
/* The local APIC (SDM volume 3, chapter 11) and the I/O APIC (Intel 82093AA data sheet). */
#ifndef SUITE_APIC_H
#define SUITE_APIC_H

#include <stdint.h>

#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_END_OF_INTERRUPT 0xb0
#define APIC_SPURIOUS 0xf0
#define APIC_SPURIOUS_ENABLE 0x100
#define APIC_IN_SERVICE 0x100
#define APIC_COMMAND 0x300
#define APIC_COMMAND_HIGH 0x310
#define APIC_TIMER 0x320
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_NOW 0x390
#define APIC_TIMER_DIVIDE 0x3e0

#define COMMAND_INIT 0x4500
#define COMMAND_STARTUP 0x4600
#define COMMAND_FIXED 0x4000
#define COMMAND_SELF 0x40000
#define COMMAND_OTHERS 0xc0000

static inline uint32_t apic_read(uint32_t offset)
{
	return *(volatile uint32_t *)(0xfee00000UL + offset);
}

static inline void apic_write(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(0xfee00000UL + offset) = value;
}

#define IOAPIC_ID 0
#define IOAPIC_VERSION 1
#define IOAPIC_ENTRY(pin) (0x10 + 2 * (pin))
#define ENTRY_LEVEL 0x8000
#define ENTRY_REMOTE_IRR 0x4000
#define ENTRY_MASKED 0x10000

static inline uint32_t ioapic_read(uint32_t number)
{
	*(volatile uint32_t *)0xfec00000UL = number;
	return *(volatile uint32_t *)0xfec00010UL;
}

static inline void ioapic_write(uint32_t number, uint32_t value)
{
	*(volatile uint32_t *)0xfec00000UL = number;
	*(volatile uint32_t *)0xfec00010UL = value;
}

#endif
