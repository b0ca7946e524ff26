/* SPDX-License-Identifier: MIT */
/* Looks at the PCI bus as firmware and drivers do, and then as none of them should. */
#include "pci.h"
#include "guest.h"
#include "interrupts.h"
#include "msix.h"
#include "private.h"
#include "virtio_pci.h"

#define MOVED 0xd000
#define PORT_COM1 0x3f8
#define PORT_PM_TIMER 0x608
#define MESSAGE (IRQ_BASE + 12)

GUEST_NEEDS(NEED_INTERRUPTS);

static volatile uint64_t messages;

static void on_message(struct interrupt_frame *frame)
{
	(void)frame;
	messages++;
	apic_end_of_interrupt();
}

static void scan(void)
{
	for (unsigned int slot = 0; slot < PCI_SLOTS; slot++) {
		uint32_t id = pci_read(slot, PCI_ID, 4);

		if (id == ~0u)
			continue;
		assert(pci_read(slot, PCI_ID, 2) == (id & 0xffff));
		print("slot %u: %04x:%04x class %04x\n", slot, id & 0xffff, id >> 16,
		      pci_read(slot, PCI_CLASS, 2));
		for (unsigned int bar = 0; bar < PCI_BARS; bar++) {
			uint32_t value = pci_read(slot, PCI_BAR + 4 * bar, 4);
			uint32_t size = pci_bar_size(slot, bar);

			if (size)
				print("  bar %u: %s at 0x%x, %u bytes\n", bar,
				      value & PCI_BAR_IO ? "ports" : "memory",
				      pci_bar_address(slot, bar), size);
			assert(pci_read(slot, PCI_BAR + 4 * bar, 4) == value);
		}
	}
}

static uint16_t queues_at(uint32_t port)
{
	return inw((uint16_t)(port + COMMON_QUEUES));
}

/* The registers' BAR is decoded where it is put, and nowhere else. */
static void move(unsigned int slot)
{
	uint32_t before = pci_bar_address(slot, 0);
	uint16_t queues = queues_at(before);

	assert(queues > 0 && queues != 0xffff);
	pci_write(slot, PCI_BAR, 4, MOVED);
	assert(queues_at(MOVED) == queues && queues_at(before) == 0xffff);
	pci_write(slot, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert(queues_at(MOVED) == 0xffff);
	pci_write(slot, PCI_COMMAND, 2,
		  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert(queues_at(MOVED) == queues);
	/* As one that sizes it without turning decoding off. */
	pci_write(slot, PCI_BAR, 4, ~0u);
	assert(queues_at(MOVED) == 0xffff && queues_at(0xff00) == 0xffff);
	pci_write(slot, PCI_BAR, 4, before);
	assert(queues_at(before) == queues);
	print("moved and back\n");
}

/* What was there first answers; the console, through which this is said, is one of them. */
static void overlap(unsigned int slot)
{
	uint32_t before = pci_bar_address(slot, 0);

	for (uint32_t port = 0x100; port < 0x10000; port += 0x100)
		if (port != before)
			pci_write(slot, PCI_BAR, 4, port);
	pci_write(slot, PCI_BAR, 4, PORT_COM1 & 0xff00);
	print("still here\n");
	pci_write(slot, PCI_BAR, 4, PORT_PM_TIMER & 0xff00);
	/* It has 24 bits, and the registers' BAR would have others there. */
	assert(inl(PORT_PM_TIMER) >> 24 == 0);
	pci_write(slot, PCI_BAR, 4, 0xc00);
	assert(pci_is_there() && pci_read(slot, PCI_BAR, 4) == (0xc00 | PCI_BAR_IO));
	pci_write(slot, PCI_BAR, 4, before);
	assert(queues_at(before) != 0xffff);
	print("nothing was covered\n");
}

/* Registers are reached by configuration space, decoded or not. */
static void by_configuration(unsigned int slot)
{
	unsigned int place = virtio_pci_structure(slot, VIRTIO_PCI_ACCESS);
	uint16_t queues = queues_at(pci_bar_address(slot, 0));

	assert(place);
	pci_write(slot, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	pci_write(slot, place + CAPABILITY_BAR, 1, 0);
	pci_write(slot, place + CAPABILITY_OFFSET, 4, COMMON_QUEUES);
	pci_write(slot, place + CAPABILITY_LENGTH, 4, 2);
	assert(pci_read(slot, place + CAPABILITY_DATA, 2) == queues);
	pci_write(slot, place + CAPABILITY_OFFSET, 4, COMMON_STATUS);
	pci_write(slot, place + CAPABILITY_LENGTH, 4, 1);
	pci_write(slot, place + CAPABILITY_DATA, 1, STATUS_ACKNOWLEDGE);
	pci_write(slot, PCI_COMMAND, 2,
		  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert(inb((uint16_t)(pci_bar_address(slot, 0) + COMMON_STATUS)) == STATUS_ACKNOWLEDGE);
	print("reached by configuration space\n");
}

static struct {
	uint64_t descriptors[2];
	uint16_t driver_flags, driver_index, driver_ring;
	uint32_t device[4];
} volatile broken __attribute__((aligned(16)));

/* A ring that no driver may make: the device says that it needs a reset. */
static void break_ring(const struct virtio *device)
{
	broken.driver_index = 77;
	virtio_negotiate(device);
	virtio_queue_enable(device, 0, 1, broken.descriptors, &broken.driver_flags, broken.device);
	assert(virtio_set_vectors(device, 0, NO_VECTOR, 0));
	virtio_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					  STATUS_DRIVER_OK);
	virtio_notify(device, 0);
	while (!(virtio_status(device) & STATUS_NEEDS_RESET))
		pause();
}

/* A message that comes while its vector is masked is pending, and comes when it is not. */
static void message(const struct virtio *device)
{
	unsigned int slot = device->slot;

	interrupt_handle(MESSAGE, on_message);
	apic_open();
	msix_control(slot, true, true);
	msix_route(slot, 0, MESSAGE, false);
	break_ring(device);
	assert(msix_is_pending(slot, 0) && !messages);
	msix_control(slot, true, false);
	while (!messages)
		wait_for_interrupt();
	assert(!msix_is_pending(slot, 0));
	msix_mask(slot, 0, true);
	break_ring(device);
	assert(msix_is_pending(slot, 0) && messages == 1);
	msix_mask(slot, 0, false);
	while (messages < 2)
		wait_for_interrupt();
	print("%lu messages, each when it was not masked\n", messages);
	/* The device's reset and the function's keep nothing back. */
	msix_control(slot, false, true);
	virtio_set_status(device, 0);
}

int guest_main(void)
{
	struct virtio device;

	if (!virtio_pci_find(&device, VIRTIO_BLOCK)) {
		print("there is no virtio block device on PCI\n");
		return 2;
	}
	scan();
	move(device.slot);
	overlap(device.slot);
	by_configuration(device.slot);
	if (!memory_is_private())
		message(&device);
	return EXIT_SUCCESS;
}
