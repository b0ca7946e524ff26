/* SPDX-License-Identifier: MIT */
/*
 * Echoes what it gets by a virtio socket device: on its port 1234, to who connects, until "end"; and before
 * that, with port 77 of the host's, to who listens there.
 */
#include "guest.h"
#include "virtqueue.h"

#define VIRTIO_VSOCK 19
#define HOST_CID 2
#define PORT 1234
#define OWN_PORT 5000
#define HOST_PORT 77
#define ROOM 1024 /* of a packet */
#define BUFFER 4096 /* of a connection */
#define SLOTS 4

enum operation { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST };

struct packet {
	uint64_t from, to;
	uint32_t from_port, to_port;
	uint32_t length;
	uint16_t kind, operation;
	uint32_t flags, allocated, forwarded;
} __attribute__((packed));

struct arrived {
	struct packet head;
	uint8_t data[ROOM];
} __attribute__((packed));

GUEST_NEEDS(NEED_INTERRUPTS);

static struct virtio device;
static volatile struct virtqueue receive, transmit, events;
static volatile struct arrived arrived[SLOTS];
static volatile struct packet sent;
static volatile uint32_t event;
static unsigned int next_slot;
static uint32_t forwarded;

static void offer(unsigned int slot)
{
	struct buffer buffer = {&arrived[slot], sizeof(arrived[slot])};

	virtqueue_put(&receive, (uint16_t)slot, &buffer, 0, 1);
}

static void offer_event(void)
{
	struct buffer buffer = {&event, sizeof(event)};

	virtqueue_put(&events, 0, &buffer, 0, 1);
}

static void send(uint32_t port, uint32_t to, enum operation operation, volatile void *data,
		 uint32_t length)
{
	struct buffer buffers[2] = {{&sent, sizeof(sent)}, {data, length}};

	sent.from = virtio_config(&device, 0);
	sent.to = HOST_CID;
	sent.from_port = port;
	sent.to_port = to;
	sent.length = length;
	sent.kind = 1;
	sent.operation = (uint16_t)operation;
	sent.flags = operation == SHUTDOWN ? 3 : 0;
	sent.allocated = BUFFER;
	sent.forwarded = forwarded;
	virtqueue_put(&transmit, 0, buffers, length ? 2 : 1, 0);
	(void)virtqueue_take(&transmit);
}

/* The next packet, offered again by `used`; none where the device has said that connections are gone. */
static volatile struct arrived *next_packet(void)
{
	while (!virtqueue_used(&receive)) {
		if (virtqueue_used(&events)) {
			assert(virtqueue_take(&events) == sizeof(event) && event == 0);
			print("connections are gone, guest %u\n", virtio_config(&device, 0));
			offer_event();
			return 0;
		}
		pause();
	}
	(void)virtqueue_take(&receive);
	return &arrived[next_slot];
}

static void used(void)
{
	offer(next_slot);
	next_slot = (next_slot + 1) % SLOTS;
}

/* Echoes a connection until its end; true if the last that was said was "end". */
static bool converse(uint32_t port, uint32_t to)
{
	bool end = false;

	for (;;) {
		volatile struct arrived *packet = next_packet();
		enum operation operation;
		uint32_t length;
		bool ours;

		if (!packet)
			return false;
		/* Of other connections, which are gone. */
		ours = packet->head.to_port == port && packet->head.from_port == to;
		operation = packet->head.operation;
		length = packet->head.length;
		if (ours) {
			if (operation == DATA) {
				forwarded += length;
				end = length >= 4 && packet->data[length - 4] == 'e' &&
				      packet->data[length - 3] == 'n' && packet->data[length - 2] == 'd';
				send(port, to, DATA, packet->data, length);
			} else if (operation == CREDIT_REQUEST) {
				send(port, to, CREDIT_UPDATE, 0, 0);
			} else if (operation == SHUTDOWN) {
				send(port, to, SHUTDOWN, 0, 0);
			}
		}
		used();
		if (operation == RESET && ours)
			return end;
	}
}

/* Waits for `operation` to `port`; returns from where it is, or 0 for connections that are gone. */
static uint32_t expect(uint32_t port, enum operation operation)
{
	volatile struct arrived *packet;
	uint32_t from;

	for (;;) {
		packet = next_packet();
		if (!packet)
			return 0;
		assert(packet->head.from == HOST_CID);
		if (packet->head.to_port == port)
			break;
		/* Who comes too early. */
		if (packet->head.operation != RESET)
			send(packet->head.to_port, packet->head.from_port, RESET, 0, 0);
		used();
	}
	from = packet->head.from_port;
	if (packet->head.operation != operation) {
		print("instead of %u: %u\n", operation, packet->head.operation);
		from = 0;
	}
	used();
	forwarded = 0;
	return from;
}

int guest_main(void)
{
	bool end = false;

	if (!virtio_find(&device, VIRTIO_VSOCK)) {
		print("there is no virtio socket device\n");
		return 2;
	}
	(void)virtio_negotiate_with(&device, 0);
	virtqueue_begin(&receive, &device, 0);
	virtqueue_begin(&transmit, &device, 1);
	virtqueue_begin(&events, &device, 2);
	virtio_ready(&device);
	offer_event();
	for (unsigned int slot = 0; slot < SLOTS; slot++)
		offer(slot);
	/* What nobody knows is reset, and so is who is not us. */
	send(OWN_PORT, HOST_PORT, DATA, 0, 0);
	assert(expect(OWN_PORT, RESET) == HOST_PORT);
	send(OWN_PORT, HOST_PORT, REQUEST, 0, 0);
	if (expect(OWN_PORT, RESPONSE) == HOST_PORT)
		(void)converse(OWN_PORT, HOST_PORT);
	print("guest %u listens\n", virtio_config(&device, 0));
	while (!end) {
		uint32_t from = expect(PORT, REQUEST);

		if (from) {
			send(PORT, from, RESPONSE, 0, 0);
			end = converse(PORT, from);
			print("a connection has ended\n");
		}
	}
	return EXIT_SUCCESS;
}
