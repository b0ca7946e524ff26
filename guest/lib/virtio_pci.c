/* SPDX-License-Identifier: MIT */
/*
 * virtio devices on PCI (virtio 1.2, 4.1): by IN and OUT where the device has structures in I/O BARs, so
 * that private code can use it, and in memory where it has none there.
 */
#include "virtio_pci.h"
#include "guest.h"
#include "pci.h"
#include "private.h"

#define COMMON_OFFERED_SELECT 0x00
#define COMMON_OFFERED 0x04
#define COMMON_DRIVER_SELECT 0x08
#define COMMON_DRIVER 0x0c
#define COMMON_CONFIG_VECTOR 0x10
#define COMMON_QUEUE_SELECT 0x16
#define COMMON_QUEUE_SIZE 0x18
#define COMMON_QUEUE_VECTOR 0x1a
#define COMMON_QUEUE_ENABLE 0x1c
#define COMMON_DESCRIPTORS 0x20
#define COMMON_DRIVER_AREA 0x28
#define COMMON_DEVICE_AREA 0x30

unsigned int virtio_pci_structure(unsigned int slot, uint8_t type)
{
	unsigned int place = 0;

	while ((place = pci_capability(slot, PCI_CAPABILITY_VENDOR, place)))
		if (pci_read(slot, place + CAPABILITY_TYPE, 1) == type)
			return place;
	return 0;
}

static uint32_t address_of(unsigned int slot, unsigned int place)
{
	unsigned int bar = pci_read(slot, place + CAPABILITY_BAR, 1);

	assert(bar < PCI_BARS);
	return pci_bar_address(slot, bar) + pci_read(slot, place + CAPABILITY_OFFSET, 4);
}

/* Where a structure is: by ports rather than in memory, as a device may have both. 0: nowhere. */
static uint32_t find_structure(unsigned int slot, uint8_t type, unsigned int *at)
{
	unsigned int place = 0;
	uint32_t found = 0;

	while ((place = pci_capability(slot, PCI_CAPABILITY_VENDOR, place))) {
		if (pci_read(slot, place + CAPABILITY_TYPE, 1) != type)
			continue;
		if (!found || address_of(slot, place) < VIRTIO_PORTS_END) {
			found = address_of(slot, place);
			*at = place;
		}
	}
	assert(found < VIRTIO_PORTS_END || !launch_info());
	return found;
}

static uint8_t read8(uint32_t at)
{
	return at < VIRTIO_PORTS_END ? inb((uint16_t)at) : *(volatile uint8_t *)(uintptr_t)at;
}

static uint16_t read16(uint32_t at)
{
	return at < VIRTIO_PORTS_END ? inw((uint16_t)at) : *(volatile uint16_t *)(uintptr_t)at;
}

static uint32_t read32(uint32_t at)
{
	return at < VIRTIO_PORTS_END ? inl((uint16_t)at) : *(volatile uint32_t *)(uintptr_t)at;
}

static void write8(uint32_t at, uint8_t value)
{
	if (at < VIRTIO_PORTS_END)
		outb((uint16_t)at, value);
	else
		*(volatile uint8_t *)(uintptr_t)at = value;
}

static void write16(uint32_t at, uint16_t value)
{
	if (at < VIRTIO_PORTS_END)
		outw((uint16_t)at, value);
	else
		*(volatile uint16_t *)(uintptr_t)at = value;
}

static void write32(uint32_t at, uint32_t value)
{
	if (at < VIRTIO_PORTS_END)
		outl((uint16_t)at, value);
	else
		*(volatile uint32_t *)(uintptr_t)at = value;
}

bool virtio_pci_find(struct virtio *device, uint32_t kind)
{
	uint32_t wanted = (VIRTIO_PCI_FIRST + kind) << 16 | VIRTIO_PCI_VENDOR;
	unsigned int slot = 0, place = 0;

	if (!pci_is_there())
		return false;
	while (pci_read(slot, PCI_ID, 4) != wanted)
		if (++slot == PCI_SLOTS)
			return false;
	pci_write(slot, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	device->is_pci = true;
	device->slot = slot;
	device->irq = pci_read(slot, PCI_INTERRUPT_LINE, 1);
	device->common = find_structure(slot, VIRTIO_PCI_COMMON, &place);
	device->isr = find_structure(slot, VIRTIO_PCI_ISR, &place);
	device->config = find_structure(slot, VIRTIO_PCI_DEVICE, &place);
	device->notify = find_structure(slot, VIRTIO_PCI_NOTIFY, &place);
	device->notify_stride = pci_read(slot, place + CAPABILITY_STRIDE, 4);
	return true;
}

static uint32_t common(const struct virtio *device, unsigned int offset)
{
	return device->common + offset;
}

uint8_t virtio_pci_status(const struct virtio *device)
{
	return read8(common(device, COMMON_STATUS));
}

void virtio_pci_set_status(const struct virtio *device, uint8_t status)
{
	write8(common(device, COMMON_STATUS), status);
}

uint32_t virtio_pci_offered(const struct virtio *device, uint32_t word)
{
	write32(common(device, COMMON_OFFERED_SELECT), word);
	return read32(common(device, COMMON_OFFERED));
}

void virtio_pci_acknowledge(const struct virtio *device, uint32_t word, uint32_t features)
{
	write32(common(device, COMMON_DRIVER_SELECT), word);
	write32(common(device, COMMON_DRIVER), features);
}

uint16_t virtio_pci_queue_size(const struct virtio *device, uint16_t queue)
{
	write16(common(device, COMMON_QUEUE_SELECT), queue);
	return read16(common(device, COMMON_QUEUE_SIZE));
}

static void write_address(const struct virtio *device, unsigned int offset,
			  volatile const void *address)
{
	write32(common(device, offset), (uint32_t)(uintptr_t)address);
	write32(common(device, offset + 4), (uint32_t)((uintptr_t)address >> 32));
}

bool virtio_pci_queue_set_up(const struct virtio *device, uint16_t queue, uint16_t size,
			     volatile const void *descriptors, volatile const void *driver,
			     volatile const void *used)
{
	write16(common(device, COMMON_QUEUE_SELECT), queue);
	write16(common(device, COMMON_QUEUE_SIZE), size);
	write_address(device, COMMON_DESCRIPTORS, descriptors);
	write_address(device, COMMON_DRIVER_AREA, driver);
	write_address(device, COMMON_DEVICE_AREA, used);
	write16(common(device, COMMON_QUEUE_ENABLE), 1);
	return read16(common(device, COMMON_QUEUE_ENABLE)) == 1;
}

void virtio_pci_notify(const struct virtio *device, uint16_t queue)
{
	/* Every device of ours numbers them as the queues; another one says where in its registers. */
	write16(device->notify + queue * device->notify_stride, queue);
}

void virtio_pci_notify_data(const struct virtio *device, uint16_t queue, uint32_t data)
{
	write32(device->notify + queue * device->notify_stride, data);
}

uint32_t virtio_pci_reasons(const struct virtio *device)
{
	return read8(device->isr);
}

uint32_t virtio_pci_config(const struct virtio *device, uint32_t offset)
{
	return read32(device->config + offset);
}

void virtio_pci_set_config(const struct virtio *device, uint32_t offset, uint32_t value)
{
	write32(device->config + offset, value);
}

bool virtio_set_vectors(const struct virtio *device, uint16_t queue, uint16_t for_queue,
			uint16_t for_config)
{
	assert(device->is_pci);
	write16(common(device, COMMON_CONFIG_VECTOR), for_config);
	write16(common(device, COMMON_QUEUE_SELECT), queue);
	write16(common(device, COMMON_QUEUE_VECTOR), for_queue);
	return read16(common(device, COMMON_CONFIG_VECTOR)) == for_config &&
	       read16(common(device, COMMON_QUEUE_VECTOR)) == for_queue;
}
