/* SPDX-License-Identifier: MIT */
/* A driver of a virtio block device, good at all that it is asked for. */
#include "assertions.h"
#include "hostile.h"

static uint16_t seen;

void enable_queue(void)
{
	virtio_queue_enable(&device, 0, QUEUE_SIZE, area->descriptors, &area->driver,
			    &area->device);
}

void set_queue_up(uint16_t size, uint64_t descriptors, uint64_t driver, uint64_t used)
{
	virtio_queue_set_up(&device, 0, size, (void *)descriptors, (void *)driver, (void *)used);
}

static void poison(void)
{
	volatile uint64_t *words = (volatile uint64_t *)area->before;

	for (unsigned int at = 0; at < WORDS; at++)
		words[at] = POISON_WORD;
	area->status = POISON;
}

void start(uint32_t features, void (*enable)(void))
{
	uint32_t high = FEATURE_VERSION_1;

	virtio_reset(&device);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	high |= virtio_offered(&device, 1) & FEATURE_ACCESS_PLATFORM;
	virtio_acknowledge(&device, 0, features);
	virtio_acknowledge(&device, 1, high);
	virtio_set_status(&device, READY & ~STATUS_DRIVER_OK);
	assert(virtio_status(&device) & STATUS_FEATURES_OK);
	area->driver.flags = 1; /* No interrupts. */
	area->driver.index = area->device.index = area->device.flags = seen = 0;
	poison();
	enable();
	virtio_set_status(&device, READY);
}

void describe(volatile struct descriptor *table, unsigned int number, uint64_t address,
	      uint32_t length, uint16_t flags, uint16_t next)
{
	table[number].address = address;
	table[number].length = length;
	table[number].flags = flags;
	table[number].next = next;
}

static void describe_request(uint32_t kind, uint32_t length)
{
	area->header.kind = kind;
	area->header.reserved = 0;
	area->header.sector = 0;
	describe(area->descriptors, 0, address_of(&area->header), sizeof(area->header),
		 DESCRIPTOR_NEXT, 1);
	describe(area->descriptors, 1, address_of(area->data), length,
		 DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 2);
	describe(area->descriptors, 2, address_of(&area->status), 1, DESCRIPTOR_WRITE, 0);
}

void describe_read(void)
{
	describe_request(BLOCK_IN, SECTOR_SIZE);
}

void offer(uint16_t head)
{
	area->driver.ring[area->driver.index % QUEUE_SIZE] = head;
	__asm__ volatile("" : : : "memory");
	area->driver.index++;
	__asm__ volatile("" : : : "memory");
	virtio_notify(&device, 0);
}

uint32_t used_length(void)
{
	while (area->device.index == seen)
		pause();
	return area->device.ring[seen++ % QUEUE_SIZE].written;
}

void require_works(void)
{
	poison();
	describe_request(BLOCK_GET_ID, 20);
	offer(0);
	assert_eq(used_length(), 21u);
	assert_eq(area->status, (uint8_t)BLOCK_OK);
	assert(area->data[0] != POISON && area->data[20] == POISON);
}
