/* SPDX-License-Identifier: MIT */
/* Rings, sizes and positions that lie (virtio 1.2, 2.7 and 4.1.4.3.2). */
#include "hostile.h"

static uint8_t private_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void index_by(uint16_t count)
{
	describe_read();
	area->driver.index = (uint16_t)(area->driver.index + count);
	virtio_notify(&device, 0);
}

static void index_ahead(void)
{
	index_by(QUEUE_SIZE + 1);
}

static void index_far_ahead(void)
{
	index_by(0x8000);
}

static void index_back(void)
{
	index_by(0xffff);
}

static void head_beyond(void)
{
	describe_read();
	offer(QUEUE_SIZE);
}

static void head_far_beyond(void)
{
	describe_read();
	offer(0xffff);
}

/* The queue is another one from a reset on. */
static void with_queue(void (*enable)(void))
{
	start(0, enable);
	virtio_notify(&device, 0);
}

#define DESCRIPTORS address_of(area->descriptors)
#define DRIVER_RING address_of(&area->driver)
#define DEVICE_RING address_of(&area->device)

#define QUEUE_CASE(name, size, descriptors, driver, used)                                          \
	static void set_##name(void)                                                               \
	{                                                                                          \
		set_queue_up(size, descriptors, driver, used);                                     \
	}                                                                                          \
	static void name(void)                                                                     \
	{                                                                                          \
		with_queue(set_##name);                                                            \
	}

QUEUE_CASE(size_0, 0, DESCRIPTORS, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(size_3, 3, DESCRIPTORS, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(size_512, 512, DESCRIPTORS, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(size_32768, 0x8000, DESCRIPTORS, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(odd_descriptors, QUEUE_SIZE, DESCRIPTORS + 8, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(odd_driver_ring, QUEUE_SIZE, DESCRIPTORS, DRIVER_RING + 1, DEVICE_RING)
QUEUE_CASE(odd_device_ring, QUEUE_SIZE, DESCRIPTORS, DRIVER_RING, DEVICE_RING + 2)
QUEUE_CASE(wrapping, QUEUE_SIZE, ~0xfull, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(no_memory, QUEUE_SIZE, NO_MEMORY, DRIVER_RING, DEVICE_RING)
QUEUE_CASE(used_no_memory, QUEUE_SIZE, DESCRIPTORS, DRIVER_RING, NO_MEMORY)
QUEUE_CASE(on_registers, QUEUE_SIZE, DESCRIPTORS, 0xfee00000, DEVICE_RING)
QUEUE_CASE(one_on_the_other, QUEUE_SIZE, DESCRIPTORS, DESCRIPTORS, DEVICE_RING)
QUEUE_CASE(private_descriptors, QUEUE_SIZE, address_of(private_page), DRIVER_RING, DEVICE_RING)
QUEUE_CASE(private_device_ring, QUEUE_SIZE, DESCRIPTORS, DRIVER_RING, address_of(private_page))

/* Data of the disk's over the ring: whatever that is to the driver, the device takes no harm. */
static void data_over(volatile void *part)
{
	describe_read();
	area->descriptors[1].address = address_of(part);
	offer(0);
	for (unsigned int i = 0; i < 20; i++)
		virtio_status(&device);
}

static void data_over_used(void)
{
	data_over(&area->device);
}

static void data_over_descriptors(void)
{
	data_over(area->descriptors);
}

const struct hostile_case ring_cases[] = {
	{"an index ahead by more than there is", BROKEN, index_ahead, 0, false},
	{"an index far ahead", BROKEN, index_far_ahead, 0, false},
	{"an index that goes back", BROKEN, index_back, 0, false},
	{"a chain whose head is beyond the descriptors", BROKEN, head_beyond, 0, false},
	{"a chain whose head is far beyond", BROKEN, head_far_beyond, 0, false},
	{"a queue of size 0", BROKEN, size_0, 0, false},
	{"a queue of size 3", BROKEN, size_3, 0, false},
	{"a queue larger than there is", BROKEN, size_512, 0, false},
	{"a queue of size 32768", BROKEN, size_32768, 0, false},
	{"descriptors out of line", BROKEN, odd_descriptors, 0, false},
	{"a driver's ring out of line", BROKEN, odd_driver_ring, 0, false},
	{"a device's ring out of line", BROKEN, odd_device_ring, 0, false},
	{"descriptors that wrap", BROKEN, wrapping, 0, false},
	{"descriptors that are no memory", BROKEN, no_memory, 0, false},
	{"a device's ring that is no memory", BROKEN, used_no_memory, 0, false},
	{"a driver's ring on the local APIC", BROKEN, on_registers, 0, false},
	{"a ring on another one", BROKEN, one_on_the_other, 0, false},
	{"private descriptors", BROKEN, private_descriptors, 0, true},
	{"a private device's ring", BROKEN, private_device_ring, 0, true},
	{"data over the device's ring", ANYTHING, data_over_used, 0, false},
	{"data over the descriptors", ANYTHING, data_over_descriptors, 0, false},
};
const unsigned int ring_count = sizeof(ring_cases) / sizeof(ring_cases[0]);
