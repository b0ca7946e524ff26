/* SPDX-License-Identifier: MIT */
/* virtio devices on PCI, with their structures in I/O BARs or in memory: for the library itself (see virtio.h). */
#ifndef GUEST_VIRTIO_PCI_H
#define GUEST_VIRTIO_PCI_H

#include "virtio.h"

#define VIRTIO_PCI_VENDOR 0x1af4
#define VIRTIO_PCI_FIRST 0x1040

/* Types of capabilities, and where in one its fields are. */
#define VIRTIO_PCI_COMMON 1
#define VIRTIO_PCI_NOTIFY 2
#define VIRTIO_PCI_ISR 3
#define VIRTIO_PCI_DEVICE 4
#define VIRTIO_PCI_ACCESS 5
#define CAPABILITY_TYPE 3
#define CAPABILITY_BAR 4
#define CAPABILITY_OFFSET 8
#define CAPABILITY_LENGTH 12
#define CAPABILITY_STRIDE 16
#define CAPABILITY_DATA 16

/* Offsets in the common configuration. */
#define COMMON_QUEUES 0x12
#define COMMON_STATUS 0x14

/* Place of the capability of a type in configuration space, 0 where there is none. */
unsigned int virtio_pci_structure(unsigned int slot, uint8_t type);

uint8_t virtio_pci_status(const struct virtio *device);
void virtio_pci_set_status(const struct virtio *device, uint8_t status);
uint32_t virtio_pci_offered(const struct virtio *device, uint32_t word);
void virtio_pci_acknowledge(const struct virtio *device, uint32_t word, uint32_t features);
uint16_t virtio_pci_queue_size(const struct virtio *device, uint16_t queue);
bool virtio_pci_queue_set_up(const struct virtio *device, uint16_t queue, uint16_t size,
			     volatile const void *descriptors, volatile const void *driver,
			     volatile const void *used);
void virtio_pci_notify(const struct virtio *device, uint16_t queue);
void virtio_pci_notify_data(const struct virtio *device, uint16_t queue, uint32_t data);
uint32_t virtio_pci_reasons(const struct virtio *device);
uint32_t virtio_pci_config(const struct virtio *device, uint32_t offset);
void virtio_pci_set_config(const struct virtio *device, uint32_t offset, uint32_t value);

#endif
