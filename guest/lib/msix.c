/* SPDX-License-Identifier: MIT */
/* MSI-X (PCI 3.0, 6.8.2) and the local APIC (SDM volume 3, chapter 11), by memory accesses. */
#include "msix.h"
#include "guest.h"
#include "pci.h"
#include "private.h"

#define APIC 0xfee00000
#define APIC_END_OF_INTERRUPT 0xb0
#define APIC_SPURIOUS 0xf0
#define APIC_ENABLED_SPURIOUS 0x1ff

#define BAR_MASK 7
#define ROW_ADDRESS 0
#define ROW_UPPER 4
#define ROW_DATA 8
#define ROW_CONTROL 12

static volatile uint32_t *word(uint64_t address)
{
	assert(!launch_info());
	return (volatile uint32_t *)address;
}

void apic_open(void)
{
	*word(APIC + APIC_SPURIOUS) = APIC_ENABLED_SPURIOUS;
}

void apic_end_of_interrupt(void)
{
	*word(APIC + APIC_END_OF_INTERRUPT) = 0;
}

static unsigned int capability(unsigned int slot)
{
	unsigned int place = pci_capability(slot, PCI_CAPABILITY_MSIX, 0);

	assert(place);
	return place;
}

/* Address of the table, or of the pending bits. */
static uint64_t part(unsigned int slot, unsigned int where)
{
	uint32_t value = pci_read(slot, capability(slot) + where, 4);

	return pci_bar_address(slot, value & BAR_MASK) + (value & ~(uint32_t)BAR_MASK);
}

void msix_control(unsigned int slot, bool enabled, bool masked)
{
	pci_write(slot, capability(slot) + MSIX_CONTROL, 2,
		  (enabled ? MSIX_ENABLE : 0u) | (masked ? MSIX_FUNCTION_MASK : 0u));
}

void msix_route(unsigned int slot, unsigned int row, uint8_t interrupt, bool masked)
{
	uint64_t address = part(slot, MSIX_TABLE) + MSIX_ROW * row;

	*word(address + ROW_CONTROL) = 1;
	*word(address + ROW_ADDRESS) = APIC;
	*word(address + ROW_UPPER) = 0;
	*word(address + ROW_DATA) = interrupt;
	*word(address + ROW_CONTROL) = masked;
}

void msix_mask(unsigned int slot, unsigned int row, bool masked)
{
	*word(part(slot, MSIX_TABLE) + MSIX_ROW * row + ROW_CONTROL) = masked;
}

bool msix_is_pending(unsigned int slot, unsigned int row)
{
	return *word(part(slot, MSIX_PENDING) + row / 32 * 4) >> row % 32 & 1;
}
