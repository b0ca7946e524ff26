/* SPDX-License-Identifier: MIT */
/*
 * Writes sectors of a virtio block device and reads them back: rounds=N times. With log=N it writes N
 * numbered records instead, and says which it knows to be on the disk.
 */
#include "guest.h"
#include "interrupts.h"
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

static struct {
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
} volatile queue __attribute__((aligned(PAGE_SIZE)));

static struct {
	uint32_t kind, reserved;
	uint64_t sector;
} header;

static volatile uint8_t data[BYTES] __attribute__((aligned(PAGE_SIZE)));
static volatile uint8_t status;
static volatile uint64_t interrupts;

static uint32_t register_read(uint32_t offset)
{
	return *(volatile uint32_t *)(uintptr_t)(VIRTIO_GPA + offset);
}

static void register_write(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)(VIRTIO_GPA + offset) = value;
}

static void write_address(uint32_t offset, volatile const void *address)
{
	register_write(offset, (uint32_t)(uintptr_t)address);
	register_write(offset + 4, (uint32_t)((uintptr_t)address >> 32));
}

static void on_interrupt(struct interrupt_frame *frame)
{
	uint32_t reasons = register_read(REG_INTERRUPT_STATUS);

	(void)frame;
	register_write(REG_INTERRUPT_ACK, reasons);
	if (reasons)
		interrupts++;
	pic_end_of_interrupt(VIRTIO_IRQ);
}

/* The device from its reset to DRIVER_OK. */
static void negotiate(void)
{
	register_write(REG_STATUS, 0);
	assert(register_read(REG_STATUS) == 0);
	register_write(REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	register_write(REG_DEVICE_FEATURES_SELECT, 1);
	assert(register_read(REG_DEVICE_FEATURES) & FEATURE_VERSION_1);
	register_write(REG_DRIVER_FEATURES_SELECT, 1);
	register_write(REG_DRIVER_FEATURES, FEATURE_VERSION_1);
	register_write(REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	assert(register_read(REG_STATUS) & STATUS_FEATURES_OK);

	queue.driver.flags = queue.driver.index = queue.device.index = 0;
	register_write(REG_QUEUE_SELECT, 0);
	assert(register_read(REG_QUEUE_SIZE_MAX) >= QUEUE_SIZE);
	register_write(REG_QUEUE_SIZE, QUEUE_SIZE);
	write_address(REG_QUEUE_DESCRIPTORS, queue.descriptors);
	write_address(REG_QUEUE_DRIVER, &queue.driver);
	write_address(REG_QUEUE_DEVICE, &queue.device);
	register_write(REG_QUEUE_READY, 1);
	assert(register_read(REG_QUEUE_READY) == 1);
	register_write(REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					   STATUS_DRIVER_OK);
}

static void describe(unsigned int number, volatile void *address, uint32_t length, uint16_t flags)
{
	queue.descriptors[number].address = (uintptr_t)address;
	queue.descriptors[number].length = length;
	queue.descriptors[number].flags = flags;
	queue.descriptors[number].next = (uint16_t)(number + 1);
}

/* Gives a request to the device and does not wait. */
static void request(uint32_t kind, uint64_t sector, uint32_t length)
{
	uint16_t from_device = kind == BLOCK_OUT ? 0 : DESCRIPTOR_WRITE;
	unsigned int last = length ? 2 : 1;

	header.kind = kind;
	header.sector = sector;
	status = POISON;
	describe(0, &header, sizeof(header), DESCRIPTOR_NEXT);
	if (length)
		describe(1, data, length, DESCRIPTOR_NEXT | from_device);
	describe(last, &status, 1, DESCRIPTOR_WRITE);
	queue.driver.ring[queue.driver.index % QUEUE_SIZE] = 0;
	__asm__ volatile("" : : : "memory");
	queue.driver.index++;
	__asm__ volatile("" : : : "memory");
	register_write(REG_QUEUE_NOTIFY, 0);
}

static uint8_t answer(void)
{
	/* There is one interrupt for each request, and none is taken outside of this. */
	do
		wait_for_interrupt();
	while (queue.device.index != queue.driver.index);
	__asm__ volatile("" : : : "memory");
	return status;
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
		data[at] = expected(round, at);
	assert(ask(BLOCK_OUT, sector, BYTES) == BLOCK_OK);
	assert(ask(BLOCK_FLUSH, 0, 0) == BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		data[at] = POISON;
	assert(ask(BLOCK_IN, sector, BYTES) == BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		assert(data[at] == expected(round, at));
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
				*(volatile uint64_t *)(data + at) = number;
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
		data[at] = POISON;
	request(BLOCK_IN, 0, BYTES);
	while (data[0] == POISON)
		pause();
	register_write(REG_STATUS, 0);
	assert(register_read(REG_STATUS) == 0);
	data[0] = data[BYTES - 1] = 1;
	status = 2;
	negotiate();
	uint8_t last = data[BYTES - 1];

	assert(ask(BLOCK_FLUSH, 0, 0) == BLOCK_OK);
	assert(data[0] == 1 && last == 1 && data[BYTES - 1] == 1);
	print("was reset in the middle\n");
}

int guest_main(void)
{
	uint64_t rounds = guest_option("rounds", 4);

	/* Private memory has no memory-mapped devices. */
	if (launch_info() || register_read(REG_MAGIC) != VIRTIO_MAGIC ||
	    register_read(REG_VERSION) != VIRTIO_VERSION ||
	    register_read(REG_DEVICE_ID) != VIRTIO_BLOCK) {
		print("there is no virtio block device\n");
		return 2;
	}
	interrupt_handle(IRQ_BASE + VIRTIO_IRQ, on_interrupt);
	pic_init();
	outb(PORT_ELCR, inb(PORT_ELCR) | 1 << VIRTIO_IRQ);
	pic_unmask(VIRTIO_IRQ);
	negotiate();

	uint64_t capacity = register_read(REG_CAPACITY) |
			    (uint64_t)register_read(REG_CAPACITY + 4) << 32;

	assert(capacity >= SECTORS);
	assert(ask(BLOCK_GET_ID, 0, ID_SIZE) == BLOCK_OK);
	data[ID_SIZE] = 0;
	print("virtio block: %lu sectors, id %s\n", capacity, (char *)data);
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
