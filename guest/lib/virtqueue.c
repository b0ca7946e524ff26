/* SPDX-License-Identifier: MIT */
#include "virtqueue.h"

#include "guest.h"

static void barrier(void)
{
	__asm__ volatile("" : : : "memory");
}

void virtqueue_begin(volatile struct virtqueue *queue, const struct virtio *of, uint16_t number)
{
	/* Nobody takes interrupts: the ring tells. */
	queue->driver.flags = 1;
	queue->driver.index = queue->device.index = queue->seen = 0;
	queue->number = number;
	queue->of = of;
	assert(virtio_queue_size(of, number) >= VIRTQUEUE_SIZE);
	virtio_queue_enable(of, number, VIRTQUEUE_SIZE, queue->descriptors, &queue->driver,
			    &queue->device);
}

void virtqueue_put(volatile struct virtqueue *queue, uint16_t first, const struct buffer *buffers,
		   unsigned int readable, unsigned int writable)
{
	for (unsigned int i = 0; i < readable + writable; i++) {
		unsigned int at = first + i;

		assert(at < VIRTQUEUE_SIZE);
		queue->descriptors[at].address = (uintptr_t)buffers[i].address;
		queue->descriptors[at].length = buffers[i].length;
		queue->descriptors[at].next = (uint16_t)(at + 1);
		queue->descriptors[at].flags =
			(uint16_t)((i < readable ? 0 : DESCRIPTOR_WRITE) |
				   (i + 1 < readable + writable ? DESCRIPTOR_NEXT : 0));
	}
	queue->driver.ring[queue->driver.index % VIRTQUEUE_SIZE] = first;
	barrier();
	queue->driver.index++;
	barrier();
	virtio_notify(queue->of, queue->number);
}

bool virtqueue_used(const volatile struct virtqueue *queue)
{
	return queue->device.index != queue->seen;
}

uint32_t virtqueue_take(volatile struct virtqueue *queue)
{
	while (!virtqueue_used(queue))
		pause();
	barrier();
	return queue->device.ring[queue->seen++ % VIRTQUEUE_SIZE].written;
}
