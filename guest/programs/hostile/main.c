/* SPDX-License-Identifier: MIT */
/*
 * Breaks the rules for drivers of virtio devices one by one, with a disk, and looks whether the device
 * answers as it must: the disk's contents stay.
 */
#include "assertions.h"
#include "hostile.h"
#include "memory.h"
#include "private.h"

GUEST_NEEDS(NEED_INTERRUPTS);

#define LOOKS 20

static struct area own_area;

volatile struct area *area = &own_area;
struct virtio device;
uint64_t capacity;

static void require_untouched(void)
{
	volatile uint64_t *words = (volatile uint64_t *)area->before;

	for (unsigned int at = 0; at < WORDS; at++)
		if (words[at] != POISON_WORD)
			assert_eq(words[at], POISON_WORD);
	assert_eq(area->status, (uint8_t)POISON);
}

static void require_silence(void)
{
	uint16_t index = area->device.index;

	while (!(virtio_status(&device) & STATUS_NEEDS_RESET))
		pause();
	area->driver.index = 0;
	describe_read();
	offer(0);
	for (unsigned int i = 0; i < LOOKS; i++)
		assert(virtio_status(&device) & STATUS_NEEDS_RESET);
	assert_eq(area->device.index, index);
	require_untouched();
}

static void look_at(enum outcome outcome)
{
	if (outcome == REFUSED) {
		assert_eq(used_length(), 0u);
		require_untouched();
	} else if (outcome == BROKEN) {
		require_silence();
	}
	if (outcome == BROKEN || outcome == ANYTHING)
		start(0, enable_queue);
	require_works();
}

static unsigned int run(const struct hostile_case *cases, unsigned int count)
{
	unsigned int tried = 0;

	for (unsigned int i = 0; i < count; i++) {
		const struct hostile_case *one = &cases[i];

		if (one->private && !memory_is_private())
			continue;
		start(one->features, enable_queue);
		one->act();
		look_at(one->outcome);
		print("%s\n", one->name);
		tried++;
	}
	return tried;
}

int guest_main(void)
{
	unsigned int tried;

	if (!virtio_find(&device, VIRTIO_BLOCK)) {
		print("there is no virtio block device\n");
		return 2;
	}
	if (memory_is_private())
		area = shared_memory(sizeof(*area));
	capacity = virtio_config(&device, 0) | (uint64_t)virtio_config(&device, 4) << 32;
	tried = run(register_cases, register_count);
	tried += run(chain_cases, chain_count);
	tried += run(ring_cases, ring_count);
	print("broke %u rules\n", tried);
	return EXIT_SUCCESS;
}
