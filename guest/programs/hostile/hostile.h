/* SPDX-License-Identifier: MIT */
/* A driver that breaks rules: what its cases share. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "guest.h"
#include "virtio.h"

#define QUEUE_SIZE 8
#define MARGIN 64
#define POISON 0xa5
#define POISON_WORD 0xa5a5a5a5a5a5a5a5
#define WORDS ((SECTOR_SIZE + 2 * MARGIN) / 8)
#define INDIRECT 4
#define FEATURE_INDIRECT (1u << 28)
#define NO_MEMORY (1ull << 40)
#define READY (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK)

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

struct driver_ring {
	uint16_t flags, index, ring[QUEUE_SIZE];
};

struct device_ring {
	uint16_t flags, index;
	struct {
		uint32_t head, written;
	} ring[QUEUE_SIZE];
};

/* All that the device may reach; what lies around a buffer must stay as it is. Page-aligned. */
struct area {
	uint8_t before[MARGIN], data[SECTOR_SIZE], after[MARGIN];
	struct {
		uint32_t kind, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
	struct descriptor descriptors[QUEUE_SIZE] __attribute__((aligned(16)));
	struct descriptor table[QUEUE_SIZE];
	struct driver_ring driver;
	struct device_ring device __attribute__((aligned(4)));
} __attribute__((aligned(PAGE_SIZE)));

enum outcome {
	REFUSED, /* The chain comes back with nothing written, and the queue goes on. */
	BROKEN,	 /* The device needs a reset and is silent until then. */
	WORKS,	 /* As if nothing had been. */
	ANYTHING /* The driver has harmed itself: after a reset the device works. */
};

struct hostile_case {
	const char *name;
	enum outcome outcome;
	void (*act)(void);
	uint32_t features; /* Of the first 32. */
	bool private;	   /* With private memory alone. */
};

extern volatile struct area *area;
extern struct virtio device;
extern uint64_t capacity;

extern const struct hostile_case chain_cases[], ring_cases[], register_cases[];
extern const unsigned int chain_count, ring_count, register_count;

/* From a reset to DRIVER_OK; `enable` sets the queue up. */
void start(uint32_t features, void (*enable)(void));
void enable_queue(void);
/* Whatever the queue is to be like: enabled or not is for the device to say. */
void set_queue_up(uint16_t size, uint64_t descriptors, uint64_t driver, uint64_t used);

void describe(volatile struct descriptor *table, unsigned int number, uint64_t address,
	      uint32_t length, uint16_t flags, uint16_t next);
/* A request to read sector 0, in descriptors 0 to 2. */
void describe_read(void);
void offer(uint16_t head);
/* Waits for the next used entry. */
uint32_t used_length(void);
void require_works(void);

static inline uint64_t address_of(volatile const void *part)
{
	return (uint64_t)(uintptr_t)part;
}

#endif
