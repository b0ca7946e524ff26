/* SPDX-License-Identifier: MIT */
/* PCI configuration by ports (PCI Local Bus Specification 3.0, 3.2.2.3.2): bus 0, function 0. */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define PCI_SLOTS 32
#define PCI_BARS 6

#define PCI_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x0a
#define PCI_BAR 0x10
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c

#define PCI_COMMAND_IO 1
#define PCI_COMMAND_MEMORY 2
#define PCI_COMMAND_MASTER 4
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_BAR_IO 1

#define PCI_CAPABILITY_VENDOR 0x09
#define PCI_CAPABILITY_MSIX 0x11

#define MSIX_CONTROL 2
#define MSIX_ENABLE 0x8000
#define MSIX_FUNCTION_MASK 0x4000
#define MSIX_TABLE 4
#define MSIX_PENDING 8
#define MSIX_ROW 16

/* False where nobody keeps the configuration address. */
bool pci_is_there(void);
/* 1, 2 or 4 bytes of a register; all ones where there is no such function. */
uint32_t pci_read(unsigned int slot, unsigned int where, unsigned int size);
void pci_write(unsigned int slot, unsigned int where, unsigned int size, uint32_t value);
/* Place of the next capability with that number behind `before` (0: the first one); 0: none. */
unsigned int pci_capability(unsigned int slot, uint8_t number, unsigned int before);
/* Size in bytes of a BAR of 32 bits, 0 where there is none. Decoding is off meanwhile. */
uint32_t pci_bar_size(unsigned int slot, unsigned int bar);
uint32_t pci_bar_address(unsigned int slot, unsigned int bar);

#endif
