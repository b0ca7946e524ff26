/* SPDX-License-Identifier: MIT */
/* virtio devices on PCI (virtio 1.2, 4.1): IN and OUT only, so that private code can use it. */
#include "virtio_pci.h"
#include "guest.h"
#include "pci.h"

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

/* The I/O port of a structure; 0 where the device has none. */
static uint16_t port_of(unsigned int slot, uint8_t type)
{
	unsigned int place = virtio_pci_structure(slot, type), bar;

	if (!place)
		return 0;
	bar = pci_read(slot, place + CAPABILITY_BAR, 1);
	assert(bar < PCI_BARS && pci_read(slot, PCI_BAR + 4 * bar, 4) & PCI_BAR_IO);
	return (uint16_t)(pci_bar_address(slot, bar) + pci_read(slot, place + CAPABILITY_OFFSET, 4));
}

bool virtio_pci_find(struct virtio *device, uint32_t kind)
{
	uint32_t wanted = (VIRTIO_PCI_FIRST + kind) << 16 | VIRTIO_PCI_VENDOR;
	unsigned int slot = 0;

	if (!pci_is_there())
		return false;
	while (pci_read(slot, PCI_ID, 4) != wanted)
		if (++slot == PCI_SLOTS)
			return false;
	pci_write(slot, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	device->is_pci = true;
	device->slot = slot;
	device->irq = pci_read(slot, PCI_INTERRUPT_LINE, 1);
	device->common = port_of(slot, VIRTIO_PCI_COMMON);
	device->isr = port_of(slot, VIRTIO_PCI_ISR);
	device->notify = port_of(slot, VIRTIO_PCI_NOTIFY);
	device->config = port_of(slot, VIRTIO_PCI_DEVICE);
	device->notify_stride = pci_read(
		slot, virtio_pci_structure(slot, VIRTIO_PCI_NOTIFY) + CAPABILITY_STRIDE, 4);
	return true;
}

static uint16_t common(const struct virtio *device, unsigned int offset)
{
	return (uint16_t)(device->common + offset);
}

uint8_t virtio_pci_status(const struct virtio *device)
{
	return inb(common(device, COMMON_STATUS));
}

void virtio_pci_set_status(const struct virtio *device, uint8_t status)
{
	outb(common(device, COMMON_STATUS), status);
}

uint32_t virtio_pci_offered(const struct virtio *device, uint32_t word)
{
	outl(common(device, COMMON_OFFERED_SELECT), word);
	return inl(common(device, COMMON_OFFERED));
}

void virtio_pci_acknowledge(const struct virtio *device, uint32_t word, uint32_t features)
{
	outl(common(device, COMMON_DRIVER_SELECT), word);
	outl(common(device, COMMON_DRIVER), features);
}

uint16_t virtio_pci_queue_size(const struct virtio *device, uint16_t queue)
{
	outw(common(device, COMMON_QUEUE_SELECT), queue);
	return inw(common(device, COMMON_QUEUE_SIZE));
}

static void write_address(const struct virtio *device, unsigned int offset,
			  volatile const void *address)
{
	outl(common(device, offset), (uint32_t)(uintptr_t)address);
	outl(common(device, offset + 4), (uint32_t)((uintptr_t)address >> 32));
}

bool virtio_pci_queue_set_up(const struct virtio *device, uint16_t queue, uint16_t size,
			     volatile const void *descriptors, volatile const void *driver,
			     volatile const void *used)
{
	outw(common(device, COMMON_QUEUE_SELECT), queue);
	outw(common(device, COMMON_QUEUE_SIZE), size);
	write_address(device, COMMON_DESCRIPTORS, descriptors);
	write_address(device, COMMON_DRIVER_AREA, driver);
	write_address(device, COMMON_DEVICE_AREA, used);
	outw(common(device, COMMON_QUEUE_ENABLE), 1);
	return inw(common(device, COMMON_QUEUE_ENABLE)) == 1;
}

void virtio_pci_notify(const struct virtio *device, uint16_t queue)
{
	/* Every device of ours numbers them as the queues; another one says where in its registers. */
	outw((uint16_t)(device->notify + queue * device->notify_stride), queue);
}

void virtio_pci_notify_data(const struct virtio *device, uint16_t queue, uint32_t data)
{
	outl((uint16_t)(device->notify + queue * device->notify_stride), data);
}

uint32_t virtio_pci_reasons(const struct virtio *device)
{
	return inb(device->isr);
}

uint32_t virtio_pci_config(const struct virtio *device, uint32_t offset)
{
	return inl((uint16_t)(device->config + offset));
}

bool virtio_set_vectors(const struct virtio *device, uint16_t queue, uint16_t for_queue,
			uint16_t for_config)
{
	assert(device->is_pci);
	outw(common(device, COMMON_CONFIG_VECTOR), for_config);
	outw(common(device, COMMON_QUEUE_SELECT), queue);
	outw(common(device, COMMON_QUEUE_VECTOR), for_queue);
	return inw(common(device, COMMON_CONFIG_VECTOR)) == for_config &&
	       inw(common(device, COMMON_QUEUE_VECTOR)) == for_queue;
}
