/* SPDX-License-Identifier: MIT */
/* virtio devices over MMIO (virtio 1.2, 4.2), and what both transports have alike. */
#include "virtio.h"
#include "guest.h"
#include "private.h"
#include "virtio_pci.h"

#define MAGIC 0x74726976
#define VERSION 2

#define REG_MAGIC 0x000
#define REG_VERSION 0x004
#define REG_DEVICE_ID 0x008
#define REG_DEVICE_FEATURES 0x010
#define REG_DEVICE_FEATURES_SELECT 0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_FEATURES_SELECT 0x024
#define REG_QUEUE_SELECT 0x030
#define REG_QUEUE_SIZE_MAX 0x034
#define REG_QUEUE_SIZE 0x038
#define REG_QUEUE_READY 0x044
#define REG_QUEUE_NOTIFY 0x050
#define REG_INTERRUPT_STATUS 0x060
#define REG_INTERRUPT_ACK 0x064
#define REG_STATUS 0x070
#define REG_QUEUE_DESCRIPTORS 0x080
#define REG_QUEUE_DRIVER 0x090
#define REG_QUEUE_DEVICE 0x0a0
#define REG_CONFIG 0x100

static uint32_t register_read(const struct virtio *device, uint32_t offset)
{
	return *(volatile uint32_t *)(uintptr_t)(device->registers + offset);
}

static void register_write(const struct virtio *device, uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)(device->registers + offset) = value;
}

static bool is_at(struct virtio *device, uint32_t registers, unsigned int irq, uint32_t kind)
{
	device->is_pci = false;
	device->registers = registers;
	device->irq = irq;
	return register_read(device, REG_MAGIC) == MAGIC &&
	       register_read(device, REG_VERSION) == VERSION &&
	       register_read(device, REG_DEVICE_ID) == kind;
}

bool virtio_find(struct virtio *device, uint32_t kind)
{
	if (virtio_pci_find(device, kind))
		return true;
	/* Private memory has no memory-mapped devices. */
	if (launch_info())
		return false;
	if (is_at(device, VIRTIO_GPA, VIRTIO_IRQ, kind))
		return true;
	for (uint32_t place = 0; place < VIRTIO_MICROVM_PLACES; place++)
		if (is_at(device, VIRTIO_MICROVM_GPA + place * VIRTIO_MICROVM_STRIDE, VIRTIO_NO_IRQ,
			  kind))
			return true;
	return false;
}

uint8_t virtio_status(const struct virtio *device)
{
	return device->is_pci ? virtio_pci_status(device) : (uint8_t)register_read(device, REG_STATUS);
}

void virtio_set_status(const struct virtio *device, uint8_t status)
{
	if (device->is_pci)
		virtio_pci_set_status(device, status);
	else
		register_write(device, REG_STATUS, status);
}

uint32_t virtio_offered(const struct virtio *device, uint32_t word)
{
	if (device->is_pci)
		return virtio_pci_offered(device, word);
	register_write(device, REG_DEVICE_FEATURES_SELECT, word);
	return register_read(device, REG_DEVICE_FEATURES);
}

void virtio_acknowledge(const struct virtio *device, uint32_t word, uint32_t features)
{
	if (device->is_pci) {
		virtio_pci_acknowledge(device, word, features);
		return;
	}
	register_write(device, REG_DRIVER_FEATURES_SELECT, word);
	register_write(device, REG_DRIVER_FEATURES, features);
}

void virtio_reset(const struct virtio *device)
{
	virtio_set_status(device, 0);
	/* Over MMIO it is so at once; on PCI a driver waits. */
	for (unsigned int tries = 0; virtio_status(device); tries++)
		assert(device->is_pci && tries < 1000000);
}

void virtio_negotiate(const struct virtio *device)
{
	(void)virtio_negotiate_with(device, 0);
}

uint32_t virtio_negotiate_with(const struct virtio *device, uint32_t wanted)
{
	uint32_t offered, taken;

	virtio_reset(device);
	virtio_set_status(device, STATUS_ACKNOWLEDGE);
	virtio_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	taken = virtio_offered(device, 0) & wanted;
	virtio_acknowledge(device, 0, taken);
	offered = virtio_offered(device, 1);
	assert(offered & FEATURE_VERSION_1);
	virtio_acknowledge(device, 1, FEATURE_VERSION_1 | (offered & FEATURE_ACCESS_PLATFORM));
	virtio_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	assert(virtio_status(device) & STATUS_FEATURES_OK);
	return taken;
}

void virtio_ready(const struct virtio *device)
{
	virtio_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					  STATUS_DRIVER_OK);
}

uint16_t virtio_queue_size(const struct virtio *device, uint16_t queue)
{
	if (device->is_pci)
		return virtio_pci_queue_size(device, queue);
	register_write(device, REG_QUEUE_SELECT, queue);
	return (uint16_t)register_read(device, REG_QUEUE_SIZE_MAX);
}

static void write_address(const struct virtio *device, uint32_t offset,
			  volatile const void *address)
{
	register_write(device, offset, (uint32_t)(uintptr_t)address);
	register_write(device, offset + 4, (uint32_t)((uintptr_t)address >> 32));
}

bool virtio_queue_set_up(const struct virtio *device, uint16_t queue, uint16_t size,
			 volatile const void *descriptors, volatile const void *driver,
			 volatile const void *used)
{
	if (device->is_pci)
		return virtio_pci_queue_set_up(device, queue, size, descriptors, driver, used);
	register_write(device, REG_QUEUE_SELECT, queue);
	register_write(device, REG_QUEUE_SIZE, size);
	write_address(device, REG_QUEUE_DESCRIPTORS, descriptors);
	write_address(device, REG_QUEUE_DRIVER, driver);
	write_address(device, REG_QUEUE_DEVICE, used);
	register_write(device, REG_QUEUE_READY, 1);
	return register_read(device, REG_QUEUE_READY) == 1;
}

void virtio_queue_enable(const struct virtio *device, uint16_t queue, uint16_t size,
			 volatile const void *descriptors, volatile const void *driver,
			 volatile const void *used)
{
	assert(virtio_queue_set_up(device, queue, size, descriptors, driver, used));
}

void virtio_notify(const struct virtio *device, uint16_t queue)
{
	if (device->is_pci)
		virtio_pci_notify(device, queue);
	else
		register_write(device, REG_QUEUE_NOTIFY, queue);
}

void virtio_notify_data(const struct virtio *device, uint16_t queue, uint16_t position)
{
	uint32_t data = queue | (uint32_t)position << 16;

	if (device->is_pci)
		virtio_pci_notify_data(device, queue, data);
	else
		register_write(device, REG_QUEUE_NOTIFY, data);
}

uint32_t virtio_reasons(const struct virtio *device)
{
	if (device->is_pci)
		return virtio_pci_reasons(device);

	uint32_t reasons = register_read(device, REG_INTERRUPT_STATUS);

	register_write(device, REG_INTERRUPT_ACK, reasons);
	return reasons;
}

uint32_t virtio_config(const struct virtio *device, uint32_t offset)
{
	return device->is_pci ? virtio_pci_config(device, offset)
			      : register_read(device, REG_CONFIG + offset);
}

void virtio_set_config(const struct virtio *device, uint32_t offset, uint32_t value)
{
	if (device->is_pci)
		virtio_pci_set_config(device, offset, value);
	else
		register_write(device, REG_CONFIG + offset, value);
}
