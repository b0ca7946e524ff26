/* SPDX-License-Identifier: MIT */
/*
 * Finds the ACPI tables and goes by what they say: off=1 switches the machine off, reset=1 resets it,
 * button=1 waits for its power button and switches it off then.
 */
#include "guest.h"
#include "interrupts.h"

#define SCAN_START 0xe0000
#define SCAN_END 0x100000
#define RSDP_STEP 16
#define RSDP_SIZE 36
#define HEADER_SIZE 36
#define MADT_ENTRIES 44
#define MADT_LOCAL_APIC 0

#define FADT_SCI 46
#define FADT_EVENTS 56
#define FADT_CONTROL 64
#define FADT_RESET_PORT 120
#define FADT_RESET_VALUE 128
#define FADT_DSDT 140

#define BUTTON 0x100
#define SCI_ENABLED 1
#define SLEEP 0x2000
#define SLEEP_TYPE_SHIFT 10
#define AML_BYTE 0x0a
#define PORT_ELCR 0x4d0

GUEST_NEEDS(NEED_INTERRUPTS);

static uint16_t events;
static unsigned int sci;
static volatile bool pressed;

static uint64_t number(const volatile uint8_t *at, unsigned int size)
{
	uint64_t value = 0;

	while (size--)
		value = value << 8 | at[size];
	return value;
}

static uint16_t half_word(const volatile uint8_t *at)
{
	return (uint16_t)number(at, 2);
}

static bool is_whole(const volatile uint8_t *at, uint64_t size)
{
	uint8_t sum = 0;

	for (uint64_t i = 0; i < size; i++)
		sum += at[i];
	return !sum;
}

static const volatile uint8_t *find_rsdp(void)
{
	static const char signature[] = "RSD PTR ";

	for (uintptr_t gpa = SCAN_START; gpa < SCAN_END; gpa += RSDP_STEP) {
		const volatile uint8_t *at = (const volatile uint8_t *)gpa;
		unsigned int same = 0;

		while (signature[same] && at[same] == (uint8_t)signature[same])
			same++;
		if (!signature[same])
			return at;
	}
	return 0;
}

/* The table with that signature, of those in the XSDT; its checksum is right. */
static const volatile uint8_t *find_table(const volatile uint8_t *xsdt, const char *signature)
{
	for (unsigned int at = HEADER_SIZE; at < number(xsdt + 4, 4); at += 8) {
		const volatile uint8_t *table = (const volatile uint8_t *)number(xsdt + at, 8);

		assert(is_whole(table, number(table + 4, 4)));
		if (number(table, 4) == number((const volatile uint8_t *)signature, 4))
			return table;
	}
	panic("there is no table %s", signature);
}

static unsigned int count_cpus(const volatile uint8_t *madt)
{
	unsigned int count = 0;

	for (unsigned int at = MADT_ENTRIES; at < number(madt + 4, 4); at += madt[at + 1])
		count += madt[at] == MADT_LOCAL_APIC;
	return count;
}

/* SLP_TYP of S5: the first element, a byte, of the package named _S5_ (ACPI 6.5, 7.4.2.5). */
static unsigned int soft_off(const volatile uint8_t *dsdt)
{
	for (unsigned int at = HEADER_SIZE; at + 8 < number(dsdt + 4, 4); at++) {
		const volatile uint8_t *name = dsdt + at;

		if (name[0] == '_' && name[1] == 'S' && name[2] == '5' && name[3] == '_') {
			assert(name[7] == AML_BYTE);
			return name[8];
		}
	}
	panic("there is no _S5 in the DSDT");
}

static void on_sci(struct interrupt_frame *frame)
{
	(void)frame;
	if (inw(events) & BUTTON) {
		outw(events, BUTTON);
		pressed = true;
	}
	pic_end_of_interrupt(sci);
}

static void wait_for_button(void)
{
	uint16_t trigger = (uint16_t)(PORT_ELCR + sci / 8);

	pic_init();
	/* ACPI's interrupt is a level, on the PC's controllers too. */
	outb(trigger, (uint8_t)(inb(trigger) | 1 << sci % 8));
	interrupt_handle(IRQ_BASE + sci, on_sci);
	outw(events + 2, BUTTON);
	pic_unmask(sci);
	print("press the button\n");
	while (!pressed)
		wait_for_interrupt();
	print("it was pressed\n");
}

int guest_main(void)
{
	const volatile uint8_t *rsdp = find_rsdp(), *xsdt, *fadt;
	uint16_t control;

	if (!guest_option("off", 0) && !guest_option("reset", 0) && !guest_option("button", 0)) {
		print("nothing to do: give off=1, reset=1 or button=1\n");
		return 2;
	}
	if (!rsdp) {
		print("there are no ACPI tables\n");
		return 2;
	}
	assert(is_whole(rsdp, RSDP_SIZE));
	xsdt = (const volatile uint8_t *)number(rsdp + 24, 8);
	assert(is_whole(xsdt, number(xsdt + 4, 4)));
	fadt = find_table(xsdt, "FACP");
	sci = half_word(fadt + FADT_SCI);
	events = half_word(fadt + FADT_EVENTS);
	control = half_word(fadt + FADT_CONTROL);
	print("%u CPUs, SCI %u, PM1a 0x%x and 0x%x\n", count_cpus(find_table(xsdt, "APIC")), sci,
	      events, control);
	assert(inw(control) & SCI_ENABLED);
	if (guest_option("button", 0))
		wait_for_button();
	if (guest_option("reset", 0)) {
		print("reset\n");
		outb(half_word(fadt + FADT_RESET_PORT), fadt[FADT_RESET_VALUE]);
	} else {
		unsigned int kind = soft_off((const volatile uint8_t *)number(fadt + FADT_DSDT, 8));

		print("off\n");
		outw(control, (uint16_t)(kind << SLEEP_TYPE_SHIFT | SLEEP));
	}
	panic("the machine goes on");
}
