/* SPDX-License-Identifier: MIT */
/* Message interrupts of PCI functions, and the local APIC that they are sent to. Not in private memory. */
#ifndef GUEST_MSIX_H
#define GUEST_MSIX_H

#include <stdbool.h>
#include <stdint.h>

/* The local APIC takes messages; the end of one. */
void apic_open(void);
void apic_end_of_interrupt(void);

/* MSI-X of a slot's function on or off, all vectors masked together or not. */
void msix_control(unsigned int slot, bool enabled, bool masked);
/* A row of its table: the CPU's vector `interrupt`, masked or not. Decoding is on. */
void msix_route(unsigned int slot, unsigned int row, uint8_t interrupt, bool masked);
void msix_mask(unsigned int slot, unsigned int row, bool masked);
bool msix_is_pending(unsigned int slot, unsigned int row);

#endif
