/* SPDX-License-Identifier: MIT */
/* Registers at the wrong time, and numbers of what is not there (virtio 1.2, 2.1, 2.2 and 3.1). */
#include "assertions.h"
#include "hostile.h"

#define MANY 16

static void negotiate(uint32_t low, uint32_t high, bool accepted)
{
	virtio_reset(&device);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	virtio_acknowledge(&device, 0, low);
	virtio_acknowledge(&device, 1, high);
	virtio_set_status(&device, READY & ~STATUS_DRIVER_OK);
	assert_eq(!!(virtio_status(&device) & STATUS_FEATURES_OK), accepted);
}

static void again(void)
{
	start(0, enable_queue);
}

static void features_never_offered(void)
{
	uint32_t platform = virtio_offered(&device, 1) & FEATURE_ACCESS_PLATFORM;

	for (unsigned int bit = 0; bit < 32; bit++) {
		if (!(virtio_offered(&device, 0) & 1u << bit))
			negotiate(1u << bit, FEATURE_VERSION_1 | platform, false);
		if (!(virtio_offered(&device, 1) & 1u << bit))
			negotiate(0, FEATURE_VERSION_1 | platform | 1u << bit, false);
	}
	again();
}

static void without_version_1(void)
{
	negotiate(0, 0, false);
	negotiate(FEATURE_INDIRECT, 0, false);
	again();
}

static void without_access_platform(void)
{
	negotiate(0, FEATURE_VERSION_1, false);
	again();
}

static void features_behind_features_ok(void)
{
	virtio_acknowledge(&device, 0, 0xffffffff);
	virtio_acknowledge(&device, 1, 0xffffffff);
	assert_eq(virtio_status(&device), (uint8_t)READY);
}

static void driver_ok_before_features_ok(void)
{
	virtio_reset(&device);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
	assert_eq(virtio_status(&device), (uint8_t)(STATUS_ACKNOWLEDGE | STATUS_DRIVER));
	virtio_notify(&device, 0);
	again();
}

static void no_queue(void)
{
}

static void ready_without_a_queue(void)
{
	start(0, no_queue);
	for (unsigned int i = 0; i < MANY; i++)
		virtio_notify(&device, 0);
	assert_eq(virtio_status(&device), (uint8_t)READY);
	again();
}

static void queue_changed_behind_driver_ok(void)
{
	set_queue_up(4, NO_MEMORY, NO_MEMORY, NO_MEMORY);
	set_queue_up(3, 1, 1, 1);
	assert_eq(virtio_status(&device), (uint8_t)READY);
	virtio_queue_size(&device, 0);
}

static void queues_that_are_not_there(void)
{
	static const uint16_t numbers[] = {1, 31, 32, 0x7fff, 0xffff};

	for (unsigned int i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		assert_eq(virtio_queue_size(&device, numbers[i]), (uint16_t)0);
		assert(!virtio_queue_set_up(&device, numbers[i], QUEUE_SIZE, area->descriptors,
					    &area->driver, &area->device));
	}
	virtio_queue_size(&device, 0);
	assert_eq(virtio_status(&device), (uint8_t)READY);
}

static void notifications_of_no_queue(void)
{
	for (uint16_t number = 1; number < 8; number++)
		virtio_notify(&device, number);
	for (unsigned int i = 0; i < 100; i++)
		virtio_notify(&device, 0);
	assert_eq(virtio_status(&device), (uint8_t)READY);
}

static void status_bits_that_are_none(void)
{
	virtio_set_status(&device, 0x30 | READY);
	assert_eq(virtio_status(&device), (uint8_t)READY);
	virtio_set_status(&device, STATUS_NEEDS_RESET | READY);
	assert_eq(virtio_status(&device), (uint8_t)READY);
}

static void resets_in_the_middle(void)
{
	for (unsigned int i = 0; i < MANY; i++) {
		describe_read();
		offer(0);
		again();
		/* Of what was begun before nothing arrives. */
		assert_eq(area->device.index, (uint16_t)0);
		assert_eq(area->data[0], (uint8_t)POISON);
	}
}

static void one_chain_many_times(void)
{
	describe_read();
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		area->driver.ring[i] = 0;
	area->driver.index = QUEUE_SIZE;
	virtio_notify(&device, 0);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		assert_eq(used_length(), SECTOR_SIZE + 1u);
}

const struct hostile_case register_cases[] = {
	{"features never offered", WORKS, features_never_offered, 0, false},
	{"no VERSION_1", WORKS, without_version_1, 0, false},
	{"no ACCESS_PLATFORM", WORKS, without_access_platform, 0, true},
	{"features behind FEATURES_OK", WORKS, features_behind_features_ok, 0, false},
	{"DRIVER_OK before FEATURES_OK", WORKS, driver_ok_before_features_ok, 0, false},
	{"DRIVER_OK without a queue", WORKS, ready_without_a_queue, 0, false},
	{"a queue changed behind DRIVER_OK", WORKS, queue_changed_behind_driver_ok, 0, false},
	{"queues that are not there", WORKS, queues_that_are_not_there, 0, false},
	{"notifications of no queue", WORKS, notifications_of_no_queue, 0, false},
	{"status bits that are none", WORKS, status_bits_that_are_none, 0, false},
	{"resets in the middle", WORKS, resets_in_the_middle, 0, false},
	{"one chain many times", WORKS, one_chain_many_times, 0, false},
};
const unsigned int register_count = sizeof(register_cases) / sizeof(register_cases[0]);
