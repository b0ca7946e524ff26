/* SPDX-License-Identifier: MIT */
/* A split virtqueue whose used ring is polled (virtio 1.2, section 2.7). */
#ifndef GUEST_VIRTQUEUE_H
#define GUEST_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio.h"

#define VIRTQUEUE_SIZE 8

struct virtqueue {
	struct {
		uint64_t address;
		uint32_t length;
		uint16_t flags, next;
	} descriptors[VIRTQUEUE_SIZE];
	struct {
		uint16_t flags, index, ring[VIRTQUEUE_SIZE];
	} driver;
	struct {
		uint16_t flags, index;
		struct {
			uint32_t head, written;
		} ring[VIRTQUEUE_SIZE];
	} device __attribute__((aligned(4)));
	uint16_t seen;
	uint16_t number;
	const struct virtio *of;
} __attribute__((aligned(16)));

struct buffer {
	volatile void *address;
	uint32_t length;
};

void virtqueue_begin(volatile struct virtqueue *queue, const struct virtio *of, uint16_t number);
/* Makes a chain of `readable` buffers and then `writable` ones from descriptor `first` on. */
void virtqueue_put(volatile struct virtqueue *queue, uint16_t first, const struct buffer *buffers,
		   unsigned int readable, unsigned int writable);
bool virtqueue_used(const volatile struct virtqueue *queue);
/* Waits for a chain to come back; the bytes that were written. */
uint32_t virtqueue_take(volatile struct virtqueue *queue);

#endif
