/* SPDX-License-Identifier: MIT */
/* virtio devices (virtio 1.2, sections 2, 4.1, 4.2 and 5.2), over PCI by ports or over MMIO. */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

/* Where pyvmm has the registers of the first device over MMIO, and the 8259A's input. */
#define VIRTIO_GPA 0xfef00000
#define VIRTIO_IRQ 5
/* Where QEMU's microvm has those of all, 512 bytes each; of their inputs only the first are an 8259A's. */
#define VIRTIO_MICROVM_GPA 0xfeb00000
#define VIRTIO_MICROVM_STRIDE 0x200
#define VIRTIO_MICROVM_PLACES 24

#define VIRTIO_BLOCK 2

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 0x40

/* Of the second 32 feature bits. */
#define FEATURE_VERSION_1 1
#define FEATURE_ACCESS_PLATFORM 2

#define NO_VECTOR 0xffff

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2

#define BLOCK_IN 0
#define BLOCK_OUT 1
#define BLOCK_FLUSH 4
#define BLOCK_GET_ID 8
#define BLOCK_OK 0
#define BLOCK_IO_ERROR 1
#define BLOCK_UNSUPPORTED 2
#define SECTOR_SIZE 512

/* An address of the structures that is no I/O port. */
#define VIRTIO_PORTS_END 0x10000
#define VIRTIO_NO_IRQ 0xff

/* A device: on PCI with the I/O ports, or else the memory, of its structures, or over MMIO. */
struct virtio {
	bool is_pci;
	unsigned int slot, irq; /* VIRTIO_NO_IRQ: it cannot interrupt by the 8259A */
	uint32_t common, isr, notify, config;
	uint32_t notify_stride;
	uint32_t registers;
};

/* The first device of a kind, PCI's before MMIO's; false where there is none. */
bool virtio_find(struct virtio *device, uint32_t kind);
/* The first on PCI, with decoding and bus mastering on. */
bool virtio_pci_find(struct virtio *device, uint32_t kind);

uint8_t virtio_status(const struct virtio *device);
void virtio_set_status(const struct virtio *device, uint8_t status);
/* 32 bits of the features that the device offers, and that the driver takes. */
uint32_t virtio_offered(const struct virtio *device, uint32_t word);
void virtio_acknowledge(const struct virtio *device, uint32_t word, uint32_t features);
/* Waits for the end of a reset. */
void virtio_reset(const struct virtio *device);
/* From a reset to FEATURES_OK, with VERSION_1, and ACCESS_PLATFORM where that is offered. */
void virtio_negotiate(const struct virtio *device);
/* The same with those of the first 32 features that are among `wanted`; returns them. */
uint32_t virtio_negotiate_with(const struct virtio *device, uint32_t wanted);
/* DRIVER_OK, when the queues are enabled. */
void virtio_ready(const struct virtio *device);

/* What the device says of a queue's size; then its size and addresses, and whether it is enabled. */
uint16_t virtio_queue_size(const struct virtio *device, uint16_t queue);
bool virtio_queue_set_up(const struct virtio *device, uint16_t queue, uint16_t size,
			 volatile const void *descriptors, volatile const void *driver,
			 volatile const void *used);
/* The same, where it must be. */
void virtio_queue_enable(const struct virtio *device, uint16_t queue, uint16_t size,
			 volatile const void *descriptors, volatile const void *driver,
			 volatile const void *used);
void virtio_notify(const struct virtio *device, uint16_t queue);
/* The same with NOTIFICATION_DATA: where the next descriptor goes, and the wrap counter on top. */
void virtio_notify_data(const struct virtio *device, uint16_t queue, uint16_t position);
/* Reasons for an interrupt, which are forgotten with that. */
uint32_t virtio_reasons(const struct virtio *device);
uint32_t virtio_config(const struct virtio *device, uint32_t offset);
void virtio_set_config(const struct virtio *device, uint32_t offset, uint32_t value);
/* On PCI: the vectors of a queue and of the configuration; false where the device has not got it. */
bool virtio_set_vectors(const struct virtio *device, uint16_t queue, uint16_t for_queue,
			uint16_t for_config);

#endif
