/* SPDX-License-Identifier: MIT */
/*
 * Writes sectors of a virtio block device and reads them back: rounds=N times. With log=N it writes N
 * numbered records instead, and says which it knows to be on the disk.
 */
#include "guest.h"
#include "interrupts.h"
#include "msix.h"
#include "private.h"
#include "virtio.h"

#define QUEUE_SIZE 8
#define SECTORS 8
#define BYTES (SECTORS * SECTOR_SIZE)
#define PORT_ELCR 0x4d0
#define ID_SIZE 20
#define POISON 0xa5

GUEST_NEEDS(NEED_INTERRUPTS);

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

struct queue {
	struct descriptor descriptors[QUEUE_SIZE];
	struct {
		uint16_t flags, index, ring[QUEUE_SIZE];
	} driver;
	struct {
		uint16_t flags, index;
		struct {
			uint32_t head, written;
		} ring[QUEUE_SIZE];
	} device __attribute__((aligned(4)));
};

/* All that the device reaches: with private memory it is shared. */
struct area {
	volatile uint8_t data[BYTES];
	volatile struct queue queue;
	struct {
		uint32_t kind, reserved;
		uint64_t sector;
	} header;
	volatile uint8_t status;
} __attribute__((aligned(PAGE_SIZE)));

static struct area own_area, *area = &own_area;
static struct virtio device;
static bool by_message;
static volatile uint64_t interrupts;

static void on_interrupt(struct interrupt_frame *frame)
{
	(void)frame;
	if (virtio_reasons(&device))
		interrupts++;
	pic_end_of_interrupt(device.irq);
}

static void on_message(struct interrupt_frame *frame)
{
	(void)frame;
	interrupts++;
	apic_end_of_interrupt();
}

/* The device from its reset to DRIVER_OK. */
static void negotiate(void)
{
	volatile struct queue *queue = &area->queue;

	virtio_negotiate(&device);
	queue->driver.flags = queue->driver.index = queue->device.index = 0;
	assert(virtio_queue_size(&device, 0) >= QUEUE_SIZE);
	virtio_queue_enable(&device, 0, QUEUE_SIZE, queue->descriptors, &queue->driver,
			    &queue->device);
	if (by_message)
		assert(virtio_set_vectors(&device, 0, 1, 0));
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					   STATUS_DRIVER_OK);
}

static void describe(unsigned int number, volatile void *address, uint32_t length, uint16_t flags)
{
	volatile struct descriptor *descriptor = &area->queue.descriptors[number];

	descriptor->address = (uintptr_t)address;
	descriptor->length = length;
	descriptor->flags = flags;
	descriptor->next = (uint16_t)(number + 1);
}

/* Gives a request to the device and does not wait. */
static void request(uint32_t kind, uint64_t sector, uint32_t length)
{
	uint16_t from_device = kind == BLOCK_OUT ? 0 : DESCRIPTOR_WRITE;
	unsigned int last = length ? 2 : 1;
	volatile struct queue *queue = &area->queue;

	area->header.kind = kind;
	area->header.sector = sector;
	area->status = POISON;
	describe(0, &area->header, sizeof(area->header), DESCRIPTOR_NEXT);
	if (length)
		describe(1, area->data, length, DESCRIPTOR_NEXT | from_device);
	describe(last, &area->status, 1, DESCRIPTOR_WRITE);
	queue->driver.ring[queue->driver.index % QUEUE_SIZE] = 0;
	__asm__ volatile("" : : : "memory");
	queue->driver.index++;
	__asm__ volatile("" : : : "memory");
	virtio_notify(&device, 0);
}

static uint8_t answer(void)
{
	/* There is one interrupt for each request, and none is taken outside of this. */
	do
		wait_for_interrupt();
	while (area->queue.device.index != area->queue.driver.index);
	__asm__ volatile("" : : : "memory");
	return area->status;
}

static uint8_t ask(uint32_t kind, uint64_t sector, uint32_t length)
{
	request(kind, sector, length);
	return answer();
}

static uint8_t expected(uint64_t round, unsigned int at)
{
	return (uint8_t)(round * 37 + at / SECTOR_SIZE * 11 + at);
}

static void write_and_read(uint64_t round, uint64_t capacity)
{
	uint64_t sector = round * SECTORS % (capacity - SECTORS + 1);

	for (unsigned int at = 0; at < BYTES; at++)
		area->data[at] = expected(round, at);
	assert(ask(BLOCK_OUT, sector, BYTES) == BLOCK_OK);
	assert(ask(BLOCK_FLUSH, 0, 0) == BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		area->data[at] = POISON;
	assert(ask(BLOCK_IN, sector, BYTES) == BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		assert(area->data[at] == expected(round, at));
}

/* A record is a sector full of its number, at that sector from 1 on; several go with one flush. */
static void log_records(uint64_t count, uint64_t capacity)
{
	uint64_t number = 0;

	assert(count < capacity);
	while (number < count) {
		uint64_t together = number % 3 + 1;

		for (uint64_t i = 0; i < together && number < count; i++) {
			number++;
			for (unsigned int at = 0; at < SECTOR_SIZE; at += sizeof(number))
				*(volatile uint64_t *)(area->data + at) = number;
			assert(ask(BLOCK_OUT, number, SECTOR_SIZE) == BLOCK_OK);
		}
		assert(ask(BLOCK_FLUSH, 0, 0) == BLOCK_OK);
		print("flushed %lu\n", number);
	}
}

/* After the reset nothing of what was under way arrives. */
static void reset_in_the_middle(void)
{
	for (unsigned int at = 0; at < BYTES; at++)
		area->data[at] = POISON;
	request(BLOCK_IN, 0, BYTES);
	while (area->data[0] == POISON)
		pause();
	virtio_set_status(&device, 0);
	while (virtio_status(&device))
		assert(device.is_pci);
	area->data[0] = area->data[BYTES - 1] = 1;
	area->status = 2;
	negotiate();
	uint8_t last = area->data[BYTES - 1];

	assert(ask(BLOCK_FLUSH, 0, 0) == BLOCK_OK);
	assert(area->data[0] == 1 && last == 1 && area->data[BYTES - 1] == 1);
	print("was reset in the middle\n");
}

static void take_interrupts(void)
{
	pic_init();
	if (by_message) {
		interrupt_handle(IRQ_BASE + device.irq, on_message);
		apic_open();
		msix_control(device.slot, true, false);
		msix_route(device.slot, 1, (uint8_t)(IRQ_BASE + device.irq), false);
		return;
	}
	interrupt_handle(IRQ_BASE + device.irq, on_interrupt);
	uint16_t levels = device.irq < 8 ? PORT_ELCR : PORT_ELCR + 1;

	outb(levels, (uint8_t)(inb(levels) | 1 << device.irq % 8));
	pic_unmask(device.irq);
}

int guest_main(void)
{
	uint64_t rounds = guest_option("rounds", 4);

	if (!virtio_find(&device, VIRTIO_BLOCK)) {
		print("there is no virtio block device\n");
		return 2;
	}
	by_message = guest_option("msix", 0);
	if (memory_is_private())
		area = shared_memory(sizeof(*area));
	take_interrupts();
	negotiate();

	uint64_t capacity = virtio_config(&device, 0) | (uint64_t)virtio_config(&device, 4) << 32;

	assert(capacity >= SECTORS);
	assert(ask(BLOCK_GET_ID, 0, ID_SIZE) == BLOCK_OK);
	area->data[ID_SIZE] = 0;
	print("virtio block: %lu sectors, id %s\n", capacity, (char *)area->data);
	assert(ask(BLOCK_IN, capacity - SECTORS + 1, BYTES) == BLOCK_IO_ERROR);
	assert(ask(BLOCK_OUT, capacity, SECTOR_SIZE) == BLOCK_IO_ERROR);
	assert(ask(BLOCK_IN, 0, SECTOR_SIZE + 1) == BLOCK_IO_ERROR);
	assert(ask(77, 0, SECTOR_SIZE) == BLOCK_UNSUPPORTED);
	print("refused what cannot be\n");
	uint64_t records = guest_option("log", 0);

	if (records) {
		log_records(records, capacity);
		return EXIT_SUCCESS;
	}
	if (guest_option("resets", 0))
		reset_in_the_middle();
	for (uint64_t round = 0; round < rounds; round++) {
		write_and_read(round, capacity);
		print("round %lu\n", round + 1);
	}
	assert(interrupts > 0);
	return EXIT_SUCCESS;
}
