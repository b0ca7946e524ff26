/* SPDX-License-Identifier: MIT */
/*
 * Writes sectors of a virtio block device with a packed ring (virtio 1.2, 2.8), and reads them back:
 * by descriptors and by tables, telling how far it is with each notification, and only where the device
 * wants one.
 */
#include "assertions.h"
#include "guest.h"
#include "private.h"
#include "virtio.h"

/* No power of two: chains go on behind the end of the ring. */
#define QUEUE_SIZE 5
#define BYTES (2 * SECTOR_SIZE)
#define PARTS 3
#define POISON 0xa5

#define FLAG_AVAILABLE (1 << 7)
#define FLAG_USED (1 << 15)
#define FLAG_INDIRECT 4
#define WRAP 0x8000
#define EVENTS_DISABLED 1
#define EVENTS_AT_POSITION 2

/* Features: of the first 32 bits, and of the second. */
#define FEATURE_INDIRECT (1u << 28)
#define FEATURE_EVENT_INDEX (1u << 29)
#define FEATURE_PACKED (1u << 2)
#define FEATURE_NOTIFICATION_DATA (1u << 6)

GUEST_NEEDS(NEED_INTERRUPTS);

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t id, flags;
};

struct events {
	uint16_t position, flags;
};

static struct area {
	struct descriptor ring[QUEUE_SIZE] __attribute__((aligned(16)));
	struct descriptor table[PARTS] __attribute__((aligned(16)));
	struct events driver, device;
	uint8_t data[BYTES];
	struct {
		uint32_t kind, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
} __attribute__((aligned(PAGE_SIZE))) own_area;

static volatile struct area *area = &own_area;
static struct virtio device;
static unsigned int next, seen;
static bool wrap, seen_wrap;
static uint64_t notifications;
static bool by_table, has_data;

static void advance(unsigned int *position, bool *counter, unsigned int count)
{
	*position += count;
	if (*position >= QUEUE_SIZE) {
		*position -= QUEUE_SIZE;
		*counter = !*counter;
	}
}

static void start(uint32_t low, uint32_t high)
{
	virtio_reset(&device);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	virtio_acknowledge(&device, 0, low);
	virtio_acknowledge(&device, 1, high);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	assert(virtio_status(&device) & STATUS_FEATURES_OK);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		area->ring[i].flags = 0;
	area->driver.position = area->device.position = area->device.flags = 0;
	area->driver.flags = EVENTS_DISABLED;
	next = seen = 0;
	wrap = seen_wrap = true;
	virtio_queue_enable(&device, 0, QUEUE_SIZE, area->ring, &area->driver, &area->device);
	virtio_set_status(&device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
					   STATUS_DRIVER_OK);
}

/* The flags of a part that make it available at `next`. */
static uint16_t available(uint16_t flags)
{
	return (uint16_t)(flags | (wrap ? FLAG_AVAILABLE : FLAG_USED));
}

static void put(volatile struct descriptor *to, volatile const void *address, uint32_t length)
{
	to->address = (uintptr_t)address;
	to->length = length;
	to->id = 7;
}

/* Whether the device wants to know of `count` descriptors, the last one before `next` (2.8.14). */
static bool must_notify(unsigned int count)
{
	uint16_t flags = area->device.flags & 3, position = area->device.position;

	if (flags != EVENTS_AT_POSITION)
		return flags != EVENTS_DISABLED;
	unsigned int at = next;
	bool counter = wrap;

	while (count--) {
		if (!at) {
			at = QUEUE_SIZE;
			counter = !counter;
		}
		at--;
		if (position == (at | (counter ? WRAP : 0)))
			return true;
	}
	return false;
}

static void notify(unsigned int count)
{
	/* What was made available is seen before what the device wants is looked at. */
	__asm__ volatile("mfence" : : : "memory");
	if (!must_notify(count))
		return;
	notifications++;
	if (has_data)
		virtio_notify_data(&device, 0, (uint16_t)(next | (wrap ? WRAP : 0)));
	else
		virtio_notify(&device, 0);
}

static uint8_t ask(uint32_t kind, uint64_t sector)
{
	static const uint16_t flags[PARTS] = {DESCRIPTOR_NEXT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE};
	volatile const void *addresses[PARTS] = {&area->header, area->data, &area->status};
	const uint32_t lengths[PARTS] = {sizeof(area->header), BYTES, 1};
	uint16_t from_device = kind == BLOCK_IN ? DESCRIPTOR_WRITE : 0;
	volatile struct descriptor *first = &area->ring[next];
	unsigned int count = by_table ? 1 : PARTS, start_at = seen;
	uint16_t first_flags = 0;

	area->header.kind = kind;
	area->header.sector = sector;
	area->status = POISON;
	for (unsigned int i = 0; i < PARTS; i++) {
		volatile struct descriptor *part = by_table ? &area->table[i] : &area->ring[next];
		uint16_t bits = (uint16_t)(flags[i] | (i == 1 ? from_device : 0));

		put(part, addresses[i], lengths[i]);
		if (by_table) {
			part->flags = bits & DESCRIPTOR_WRITE;
			continue;
		}
		/* The first one's flags come last. */
		if (i)
			part->flags = available(bits);
		else
			first_flags = available(bits);
		advance(&next, &wrap, 1);
	}
	if (by_table) {
		put(first, area->table, sizeof(area->table));
		first_flags = available(FLAG_INDIRECT);
		advance(&next, &wrap, 1);
	}
	__asm__ volatile("" : : : "memory");
	first->flags = first_flags;
	notify(count);
	uint16_t used = seen_wrap ? FLAG_AVAILABLE | FLAG_USED : 0;

	while ((area->ring[start_at].flags & (FLAG_AVAILABLE | FLAG_USED)) != used)
		pause();
	__asm__ volatile("" : : : "memory");
	assert_eq(area->ring[start_at].id, (uint16_t)7);
	assert_eq(area->ring[start_at].length, kind == BLOCK_IN ? BYTES + 1u : 1u);
	advance(&seen, &seen_wrap, count);
	return area->status;
}

static uint8_t expected(unsigned int round, unsigned int at)
{
	return (uint8_t)(round * 41 + at / 256 + at);
}

static void write_and_read(unsigned int round)
{
	uint64_t sector = 2 * round;

	for (unsigned int at = 0; at < BYTES; at++)
		area->data[at] = expected(round, at);
	assert_eq(ask(BLOCK_OUT, sector), (uint8_t)BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		area->data[at] = POISON;
	assert_eq(ask(BLOCK_IN, sector), (uint8_t)BLOCK_OK);
	for (unsigned int at = 0; at < BYTES; at++)
		if (area->data[at] != expected(round, at))
			assert_eq(area->data[at], expected(round, at));
}

static void run(const char *name, uint32_t low, uint32_t high, unsigned int rounds)
{
	by_table = low & FEATURE_INDIRECT;
	has_data = high & FEATURE_NOTIFICATION_DATA;
	notifications = 0;
	start(low, high);
	for (unsigned int round = 0; round < rounds; round++)
		write_and_read(round);
	assert(notifications);
	print("%s\n", name);
}

int guest_main(void)
{
	unsigned int rounds = (unsigned int)guest_option("rounds", 4);

	if (!virtio_find(&device, VIRTIO_BLOCK) || !(virtio_offered(&device, 1) & FEATURE_PACKED)) {
		print("there is no virtio block device with packed rings\n");
		return 2;
	}
	if (memory_is_private())
		area = shared_memory(sizeof(*area));
	uint32_t high = FEATURE_VERSION_1 | FEATURE_PACKED;

	high |= virtio_offered(&device, 1) & FEATURE_ACCESS_PLATFORM;
	run("descriptors", 0, high, rounds);
	run("tables", FEATURE_INDIRECT, high, rounds);
	run("notifications by position", FEATURE_EVENT_INDEX, high, rounds);
	if (virtio_offered(&device, 1) & FEATURE_NOTIFICATION_DATA)
		run("notifications with data", FEATURE_INDIRECT | FEATURE_EVENT_INDEX,
		    high | FEATURE_NOTIFICATION_DATA, rounds);
	return EXIT_SUCCESS;
}
