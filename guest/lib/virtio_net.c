/* SPDX-License-Identifier: MIT */
/* The driver of a virtio network card: receiving, sending, waiting. Its rings are net_ring.c's. */
#include "virtio_net.h"
#include "guest.h"
#include "interrupts.h"
#include "memory.h"
#include "msix.h"
#include "net_ring.h"
#include "private.h"
#include "virtio.h"

#define RECEIVE 0
#define TRANSMIT 1
#define RECEIVE_ROW 1
#define TRANSMIT_ROW 2
#define PORT_ELCR 0x4d0

#define CONFIG_MAC 0
#define CONFIG_MAC_END 4 /* with the status on top */
#define CONFIG_MTU 8	 /* with the number of pairs below */
#define LINK_UP 0x10000u
#define MTU_OTHERWISE 1500
#define HEADER ((uint32_t)sizeof(struct net_header))

static struct virtio device;
static struct card_facts facts;
static struct card_counts counts;
static struct net_ring receive, transmit;
static uint8_t *buffers, *slots;
static uint32_t buffer_size, slot_size;
static uint16_t free_slots[CARD_SLOTS_MOST];
static unsigned int free_count, slot_count;
static bool by_message, polls, room_is_wanted;

void *card_memory(uint64_t size)
{
	struct span span;
	void *memory;

	size = (size + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	if (memory_is_private()) {
		memory = shared_memory(size);
	} else {
		if (!memory_take(size, PAGE_SIZE, &span))
			panic("there is no memory for the network card");
		memory = (void *)span.start;
	}
	return memory;
}

static void on_interrupt(struct interrupt_frame *frame)
{
	(void)frame;
	if (virtio_reasons(&device))
		counts.interrupts++;
	pic_end_of_interrupt(device.irq);
}

static void on_message(struct interrupt_frame *frame)
{
	(void)frame;
	counts.interrupts++;
	apic_end_of_interrupt();
}

/* By the 8259A, or by messages to the CPU's vector that would be the 8259A's. */
static void take_interrupts(void)
{
	if (by_message) {
		uint8_t vector = (uint8_t)(IRQ_BASE + device.irq);

		interrupt_handle(vector, on_message);
		apic_open();
		msix_control(device.slot, true, false);
		msix_route(device.slot, RECEIVE_ROW, vector, false);
		msix_route(device.slot, TRANSMIT_ROW, vector, false);
		return;
	}
	interrupt_handle(IRQ_BASE + device.irq, on_interrupt);
	uint16_t levels = device.irq < 8 ? PORT_ELCR : PORT_ELCR + 1;

	outb(levels, (uint8_t)(inb(levels) | 1 << device.irq % 8));
	pic_unmask(device.irq);
}

static void learn_facts(void)
{
	uint32_t low = virtio_config(&device, CONFIG_MAC);
	uint32_t high = virtio_config(&device, CONFIG_MAC_END);

	for (unsigned int i = 0; i < MAC_SIZE; i++)
		facts.mac[i] = (uint8_t)(i < 4 ? low >> 8 * i : high >> 8 * (i - 4));
	if (!(facts.features & NET_MAC))
		for (unsigned int i = 0; i < MAC_SIZE; i++)
			facts.mac[i] = (uint8_t)"\x02pvmnt"[i];
	facts.mtu = MTU_OTHERWISE;
	if (facts.features & NET_MTU)
		facts.mtu = virtio_config(&device, CONFIG_MTU) >> 16;
}

/* The buffer that a chain of the receiving ring is. */
static void offer(uint16_t number)
{
	net_ring_describe(&receive, number, buffers + number * buffer_size, buffer_size,
			  DESCRIPTOR_WRITE, 0);
	net_ring_put(&receive, number);
}

/* A frame takes up to two descriptors. */
static void make_slots(uint32_t wanted)
{
	slot_size = (HEADER + ETHERNET_SIZE + facts.mtu + 63) & ~63u;
	slot_count = transmit.size / 2;
	if (slot_count > CARD_SLOTS_MOST)
		slot_count = CARD_SLOTS_MOST;
	if (slot_count > wanted)
		slot_count = wanted;
	slots = card_memory((uint64_t)slot_size * slot_count);
	for (free_count = 0; free_count < slot_count; free_count++)
		free_slots[free_count] = (uint16_t)(slot_count - 1 - free_count);
}

static void make_buffers(uint32_t wanted)
{
	bool merged = facts.features & NET_MERGED_BUFFERS;

	buffer_size = merged ? CARD_BUFFER : (HEADER + ETHERNET_SIZE + facts.mtu + 63) & ~63u;
	facts.buffers = wanted < receive.size ? wanted : receive.size;
	buffers = card_memory((uint64_t)buffer_size * facts.buffers);
	for (uint16_t number = 0; number < facts.buffers; number++)
		offer(number);
}

bool card_open(const struct card_choice *choice, struct card_facts *found)
{
	uint32_t wanted = choice->features;

	if (!virtio_find(&device, VIRTIO_NET))
		return false;
	by_message = choice->by_message && device.is_pci;
	polls = choice->polls || device.irq == VIRTIO_NO_IRQ;
	/* Long frames would need long buffers. */
	if (!(virtio_offered(&device, 0) & NET_MERGED_BUFFERS & wanted))
		wanted &= ~NET_GUEST_TSO4;
	facts.features = virtio_negotiate_with(&device, wanted);
	learn_facts();
	net_ring_begin(&receive, &device, RECEIVE, facts.features & NET_EVENT_INDEX);
	net_ring_begin(&transmit, &device, TRANSMIT, facts.features & NET_EVENT_INDEX);
	if (!polls) {
		take_interrupts();
		if (by_message) {
			assert(virtio_set_vectors(&device, RECEIVE, RECEIVE_ROW, NO_VECTOR));
			assert(virtio_set_vectors(&device, TRANSMIT, TRANSMIT_ROW, NO_VECTOR));
		}
	}
	make_slots(choice->buffers);
	make_buffers(choice->buffers);
	virtio_ready(&device);
	card_flush();
	*found = facts;
	return true;
}

void card_close(void)
{
	virtio_reset(&device);
}

bool card_has_link(void)
{
	return !(facts.features & NET_STATUS) ||
	       virtio_config(&device, CONFIG_MAC_END) & LINK_UP;
}

struct card_counts card_counts(void)
{
	return counts;
}

/* One more buffer of a frame. False where the device has written what it cannot have. */
static bool take_piece(struct frame *frame, uint32_t skipped)
{
	uint32_t head, written;

	net_ring_take(&receive, &head, &written);
	if (head >= facts.buffers)
		panic("the network card returns buffer %u of %u", head, facts.buffers);
	frame->heads[frame->buffers++] = (uint16_t)head;
	if (written < skipped || written > buffer_size)
		return false;
	frame->piece[frame->pieces].bytes = buffers + head * buffer_size + skipped;
	frame->piece[frame->pieces].length = written - skipped;
	frame->pieces++;
	frame->length += written - skipped;
	return true;
}

static bool gather(struct frame *frame)
{
	uint16_t expected = 1;
	bool good = take_piece(frame, HEADER);

	if (!good)
		return false;
	frame->header = *(const volatile struct net_header *)(buffers +
							      frame->heads[0] * buffer_size);
	if (facts.features & NET_MERGED_BUFFERS)
		expected = frame->header.buffers;
	if (!expected || expected > CARD_PIECES)
		return false;
	/* All of a frame's buffers are told by one change of the index. */
	while (good && frame->buffers < expected)
		good = net_ring_has_used(&receive) && take_piece(frame, 0);
	return good && frame->length >= ETHERNET_SIZE;
}

bool card_receive(struct frame *frame)
{
	while (net_ring_has_used(&receive)) {
		frame->length = frame->pieces = frame->buffers = 0;
		if (gather(frame)) {
			counts.received++;
			counts.received_bytes += frame->length;
			return true;
		}
		counts.dropped++;
		card_release(frame);
	}
	return false;
}

void card_release(const struct frame *frame)
{
	for (unsigned int i = 0; i < frame->buffers; i++)
		net_ring_put(&receive, frame->heads[i]);
}

static void reclaim(void)
{
	uint32_t head, written;

	while (net_ring_has_used(&transmit)) {
		net_ring_take(&transmit, &head, &written);
		if (head % 2 || head / 2 >= slot_count || free_count == slot_count)
			panic("the network card returns chain %u, which it has not got", head);
		free_slots[free_count++] = (uint16_t)(head / 2);
	}
}

bool card_slot(struct slot *slot)
{
	if (!free_count)
		reclaim();
	room_is_wanted = !free_count;
	if (!free_count)
		return false;
	slot->number = free_slots[--free_count];
	slot->header = (volatile struct net_header *)(slots + slot->number * slot_size);
	slot->bytes = (volatile uint8_t *)slot->header + HEADER;
	*slot->header = (struct net_header){0};
	return true;
}

void card_send(const struct slot *slot, uint32_t length, const volatile void *payload, uint32_t more)
{
	uint16_t head = (uint16_t)(2 * slot->number);

	assert(length <= slot_size - HEADER);
	net_ring_describe(&transmit, head, slot->header, HEADER + length, more ? DESCRIPTOR_NEXT : 0,
			  (uint16_t)(head + 1));
	if (more)
		net_ring_describe(&transmit, (uint16_t)(head + 1), payload, more, 0, 0);
	net_ring_put(&transmit, head);
	counts.sent++;
	counts.sent_bytes += length + more;
}

bool card_is_idle(void)
{
	reclaim();
	return free_count == slot_count;
}

void card_flush(void)
{
	net_ring_publish(&receive);
	net_ring_publish(&transmit);
}

void card_wait(void)
{
	card_flush();
	if (polls) {
		pause();
		take_pending_interrupts();
		return;
	}
	net_ring_arm(&receive, 0);
	/* Most of the room, so that it is worth the interrupt. */
	if (room_is_wanted)
		net_ring_arm(&transmit, (uint16_t)(slot_count * 3 / 4));
	if (!net_ring_has_used(&receive) &&
	    !(room_is_wanted && net_ring_used(&transmit) > slot_count * 3 / 4))
		wait_for_interrupt();
	net_ring_disarm(&receive);
	net_ring_disarm(&transmit);
}
