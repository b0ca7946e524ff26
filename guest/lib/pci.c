/* SPDX-License-Identifier: MIT */
/* PCI configuration by ports. */
#include "pci.h"
#include "guest.h"

#define PORT_ADDRESS 0xcf8
#define PORT_DATA 0xcfc
#define ENABLE 0x80000000
#define CAPABILITIES_MOST 48

static void choose(unsigned int slot, unsigned int where)
{
	outl(PORT_ADDRESS, ENABLE | slot << 11 | (where & 0xfc));
}

bool pci_is_there(void)
{
	outl(PORT_ADDRESS, ENABLE);
	return inl(PORT_ADDRESS) == ENABLE;
}

uint32_t pci_read(unsigned int slot, unsigned int where, unsigned int size)
{
	uint16_t port = (uint16_t)(PORT_DATA + where % 4);

	choose(slot, where);
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_write(unsigned int slot, unsigned int where, unsigned int size, uint32_t value)
{
	uint16_t port = (uint16_t)(PORT_DATA + where % 4);

	choose(slot, where);
	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
}

unsigned int pci_capability(unsigned int slot, uint8_t number, unsigned int before)
{
	unsigned int place = before ? pci_read(slot, before + 1, 1)
				    : pci_read(slot, PCI_CAPABILITIES, 1);

	if (!(pci_read(slot, PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES))
		return 0;
	for (unsigned int seen = 0; place; seen++) {
		assert(seen < CAPABILITIES_MOST && place >= 0x40 && place % 4 == 0);
		if (pci_read(slot, place, 1) == number)
			return place;
		place = pci_read(slot, place + 1, 1);
	}
	return 0;
}

uint32_t pci_bar_address(unsigned int slot, unsigned int bar)
{
	uint32_t value = pci_read(slot, PCI_BAR + 4 * bar, 4);

	return value & (value & PCI_BAR_IO ? ~3u : ~15u);
}

uint32_t pci_bar_size(unsigned int slot, unsigned int bar)
{
	unsigned int where = PCI_BAR + 4 * bar;
	uint32_t before = pci_read(slot, where, 4), command = pci_read(slot, PCI_COMMAND, 2), mask;

	pci_write(slot, PCI_COMMAND, 2, command & ~(uint32_t)(PCI_COMMAND_IO | PCI_COMMAND_MEMORY));
	pci_write(slot, where, 4, ~0u);
	mask = pci_bar_address(slot, bar);
	pci_write(slot, where, 4, before);
	pci_write(slot, PCI_COMMAND, 2, command);
	return -mask;
}
