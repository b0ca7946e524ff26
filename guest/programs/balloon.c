/* SPDX-License-Identifier: MIT */
/*
 * Gives up as many pages as a virtio balloon asks for, tells statistics, reports free pages, and takes
 * pages back: what was given up is zero then.
 */
#include "guest.h"
#include "interrupts.h"
#include "memory.h"
#include "virtio.h"

#define VIRTIO_BALLOON 5
#define FEATURE_STATISTICS 0x02
#define FEATURE_REPORTING 0x20
#define CONFIG_TARGET 0
#define CONFIG_ACTUAL 4
#define QUEUES 4
#define QUEUE_SIZE 8
#define MOST_PAGES 12
#define STRIDE 256 /* of the bytes that are looked at */
#define PATTERN 0x5a
#define TAG_FREE 4

GUEST_NEEDS(NEED_INTERRUPTS);

struct queue {
	struct {
		uint64_t address;
		uint32_t length;
		uint16_t flags, next;
	} descriptors[QUEUE_SIZE];
	struct {
		uint16_t flags, index, ring[QUEUE_SIZE];
	} driver;
	struct {
		uint16_t flags, index;
		struct {
			uint32_t head, written;
		} ring[QUEUE_SIZE];
	} device __attribute__((aligned(4)));
} __attribute__((aligned(16)));

enum { INFLATE, DEFLATE, STATISTICS, REPORTING };

static volatile struct queue queues[QUEUES];
static struct virtio device;
static volatile uint32_t numbers[MOST_PAGES];
static volatile struct {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed)) statistics[2];
static uint8_t pages[MOST_PAGES][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void negotiate(void)
{
	virtio_set_status(&device, 0);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	virtio_acknowledge(&device, 0,
			   virtio_offered(&device, 0) & (FEATURE_STATISTICS | FEATURE_REPORTING));
	virtio_acknowledge(&device, 1, FEATURE_VERSION_1);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	assert(virtio_status(&device) & STATUS_FEATURES_OK);
	for (uint16_t number = 0; number < QUEUES; number++) {
		volatile struct queue *queue = &queues[number];

		queue->driver.flags = 1; /* no interrupts: it looks */
		virtio_queue_enable(&device, number, QUEUE_SIZE, queue->descriptors, &queue->driver,
				    &queue->device);
	}
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					   STATUS_DRIVER_OK);
}

static void offer(uint16_t number, volatile const void *address, uint32_t length, uint16_t flags)
{
	volatile struct queue *queue = &queues[number];

	queue->descriptors[0].address = (uintptr_t)address;
	queue->descriptors[0].length = length;
	queue->descriptors[0].flags = flags;
	queue->driver.ring[queue->driver.index % QUEUE_SIZE] = 0;
	__asm__ volatile("" : : : "memory");
	queue->driver.index++;
	__asm__ volatile("mfence" : : : "memory");
	virtio_notify(&device, number);
}

static bool is_taken(uint16_t number)
{
	return queues[number].device.index == queues[number].driver.index;
}

static void give(uint16_t number, volatile const void *address, uint32_t length, uint16_t flags)
{
	offer(number, address, length, flags);
	while (!is_taken(number))
		pause();
	__asm__ volatile("" : : : "memory");
}

static void fill(uint32_t from, uint32_t to, uint8_t value)
{
	for (uint32_t page = from; page < to; page++)
		for (unsigned int at = 0; at < PAGE_SIZE; at += STRIDE)
			((volatile uint8_t *)pages[page])[at] = value;
}

static bool has(uint32_t page, uint8_t value)
{
	for (unsigned int at = 0; at < PAGE_SIZE; at += STRIDE)
		if (((volatile uint8_t *)pages[page])[at] != value)
			return false;
	return true;
}

static void tell_statistics(uint64_t value)
{
	statistics[0].tag = TAG_FREE;
	statistics[0].value = value;
	statistics[1].tag = 0xffff;
	statistics[1].value = 1;
	offer(STATISTICS, statistics, sizeof(statistics), 0);
}

int guest_main(void)
{
	uint32_t held = 0;
	uint64_t told = 1;

	if (!virtio_find(&device, VIRTIO_BALLOON)) {
		print("there is no virtio balloon\n");
		return 2;
	}
	negotiate();
	fill(0, MOST_PAGES, PATTERN);
	/* Numbers of what is no memory, of the end of all, and half of one: skipped. */
	numbers[0] = 0xffffffff;
	numbers[1] = 0x80000;
	give(INFLATE, numbers, 10, 0);
	/* A reported page and a half: one. */
	give(REPORTING, pages[MOST_PAGES - 2], PAGE_SIZE * 3 / 2, DESCRIPTOR_WRITE);
	assert(has(MOST_PAGES - 2, 0) && has(MOST_PAGES - 1, PATTERN));
	tell_statistics(told);
	print("balloon of %u pages, one reported\n", held);
	for (;;) {
		uint32_t wanted;

		do {
			wanted = virtio_config(&device, CONFIG_TARGET);
			if (is_taken(STATISTICS))
				tell_statistics(++told);
		} while (wanted == held);
		assert(wanted < MOST_PAGES - 2);
		if (wanted > held) {
			for (uint32_t page = held; page < wanted; page++)
				numbers[page - held] = (uint32_t)((uintptr_t)pages[page] / PAGE_SIZE);
			give(INFLATE, numbers, 4 * (wanted - held), 0);
			for (uint32_t page = held; page < wanted; page++)
				assert(has(page, 0));
			assert(has(wanted, PATTERN));
		} else {
			for (uint32_t page = wanted; page < held; page++)
				numbers[page - wanted] = (uint32_t)((uintptr_t)pages[page] / PAGE_SIZE);
			give(DEFLATE, numbers, 4 * (held - wanted), 0);
			fill(wanted, held, PATTERN);
		}
		held = wanted;
		virtio_set_config(&device, CONFIG_ACTUAL, held);
		print("balloon of %u pages\n", held);
		if (!held)
			break;
	}
	return EXIT_SUCCESS;
}
