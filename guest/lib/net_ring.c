/* SPDX-License-Identifier: MIT */
#include "net_ring.h"

#include "guest.h"
#include "virtio_net.h"

#define NO_INTERRUPT 1
#define NO_NOTIFICATION 1
#define FLAGS 0
#define INDEX 1
#define ENTRIES 2

/* What was written before can be seen before what is written, or read, from here on. */
static void barrier(void)
{
	__asm__ volatile("" : : : "memory");
}

static void full_barrier(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

void net_ring_begin(struct net_ring *ring, const struct virtio *device, uint16_t number,
		    bool by_index)
{
	uint16_t size = virtio_queue_size(device, number);
	uint8_t *memory;

	assert(size >= 2);
	if (size > NET_RING_MOST)
		size = NET_RING_MOST;
	*ring = (struct net_ring){
		.device = device, .number = number, .size = size, .by_index = by_index};
	/* 16 bytes of a descriptor, 2 of a head put, 8 of one used; flags, index and event twice. */
	memory = card_memory((uint64_t)size * (16 + 2 + 8) + 16);
	__builtin_memset(memory, 0, (size_t)size * (16 + 2 + 8) + 16);
	ring->descriptors = (volatile struct net_descriptor *)memory;
	ring->used = (volatile uint16_t *)(memory + size * 16);
	ring->driver = (volatile uint16_t *)(memory + size * (16 + 8) + 8);
	net_ring_disarm(ring);
	virtio_queue_enable(device, number, size, ring->descriptors, ring->driver, ring->used);
}

void net_ring_describe(struct net_ring *ring, uint16_t at, const volatile void *address,
		       uint32_t length, uint16_t flags, uint16_t next)
{
	volatile struct net_descriptor *descriptor = &ring->descriptors[at];

	descriptor->address = (uintptr_t)address;
	descriptor->length = length;
	descriptor->flags = flags;
	descriptor->next = next;
}

void net_ring_put(struct net_ring *ring, uint16_t head)
{
	ring->driver[ENTRIES + ring->next++ % ring->size] = head;
}

static bool wants_to_know(const struct net_ring *ring)
{
	uint16_t event;

	if (!ring->by_index)
		return !(ring->used[FLAGS] & NO_NOTIFICATION);
	event = ring->used[ENTRIES + 4 * ring->size];
	return (uint16_t)(ring->next - event - 1) < (uint16_t)(ring->next - ring->told);
}

void net_ring_publish(struct net_ring *ring)
{
	if (ring->next == ring->told)
		return;
	barrier();
	ring->driver[INDEX] = ring->next;
	full_barrier();
	if (wants_to_know(ring))
		virtio_notify(ring->device, ring->number);
	ring->told = ring->next;
}

uint16_t net_ring_used(const struct net_ring *ring)
{
	return (uint16_t)(ring->used[INDEX] - ring->seen);
}

bool net_ring_has_used(const struct net_ring *ring)
{
	return net_ring_used(ring) != 0;
}

void net_ring_take(struct net_ring *ring, uint32_t *head, uint32_t *written)
{
	const volatile uint32_t *entry =
		(const volatile uint32_t *)&ring->used[ENTRIES + 4 * (ring->seen % ring->size)];

	barrier();
	*head = entry[0];
	*written = entry[1];
	ring->seen++;
}

void net_ring_arm(struct net_ring *ring, uint16_t chains)
{
	if (ring->by_index)
		ring->driver[ENTRIES + ring->size] = (uint16_t)(ring->seen + chains);
	ring->driver[FLAGS] = 0;
	full_barrier();
}

void net_ring_disarm(struct net_ring *ring)
{
	/* With an event's index nothing needs to be said: it is behind what has been used. */
	if (!ring->by_index)
		ring->driver[FLAGS] = NO_INTERRUPT;
}
