/* SPDX-License-Identifier: MIT */
/* A split virtqueue of many chains that are put and taken in any order (virtio 1.2, 2.7): for the library itself. */
#ifndef GUEST_NET_RING_H
#define GUEST_NET_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio.h"

#define NET_RING_MOST 256

struct net_descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

struct net_ring {
	const struct virtio *device;
	uint16_t number, size;
	bool by_index; /* EVENT_IDX */
	volatile struct net_descriptor *descriptors;
	volatile uint16_t *driver; /* flags, index, heads, index of an event */
	volatile uint16_t *used;   /* flags, index, heads and lengths, index of an event */
	uint16_t next, told, seen;
};

/* Enables a queue, of as many chains as the device has room for, up to NET_RING_MOST. */
void net_ring_begin(struct net_ring *ring, const struct virtio *device, uint16_t number,
		    bool by_index);
void net_ring_describe(struct net_ring *ring, uint16_t at, const volatile void *address,
		       uint32_t length, uint16_t flags, uint16_t next);
void net_ring_put(struct net_ring *ring, uint16_t head);
/* Lets the device see what was put, and tells it if it wants to know. */
void net_ring_publish(struct net_ring *ring);
uint16_t net_ring_used(const struct net_ring *ring);
bool net_ring_has_used(const struct net_ring *ring);
void net_ring_take(struct net_ring *ring, uint32_t *head, uint32_t *written);
/* Asks for an interrupt when more than `chains` have been used; of a device without EVENT_IDX, for any. */
void net_ring_arm(struct net_ring *ring, uint16_t chains);
void net_ring_disarm(struct net_ring *ring);

#endif
