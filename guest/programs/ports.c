/* SPDX-License-Identifier: MIT */
/* Answers whoever connects to the first port of a virtio console, line by line, until "end". */
#include "guest.h"
#include "virtqueue.h"

#define VIRTIO_CONSOLE 3
#define FEATURE_MULTIPORT 2
#define CONTROL_SIZE 64
#define LINE_SIZE 256
#define SLOTS 4

enum event { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

struct control {
	uint32_t port;
	uint16_t event, value;
};

GUEST_NEEDS(NEED_INTERRUPTS);

static struct virtio device;
static volatile struct virtqueue to_us, from_us, receive, transmit;
static volatile uint8_t arrived[SLOTS][CONTROL_SIZE], line[LINE_SIZE], answer[LINE_SIZE + 16];
static volatile struct control said;
static unsigned int next_slot;

static void offer(unsigned int slot)
{
	struct buffer buffer = {arrived[slot], CONTROL_SIZE};

	virtqueue_put(&to_us, (uint16_t)slot, &buffer, 0, 1);
}

static void say(uint32_t port, enum event event, uint16_t value)
{
	struct buffer buffer = {&said, sizeof(said)};

	said.port = port;
	said.event = (uint16_t)event;
	said.value = value;
	virtqueue_put(&from_us, 0, &buffer, 1, 0);
	(void)virtqueue_take(&from_us);
}

/* The next message about a port, which is offered anew after `use` of it. */
static const volatile struct control *next_message(uint32_t *size)
{
	*size = virtqueue_take(&to_us);
	return (const volatile struct control *)arrived[next_slot];
}

static void used(void)
{
	offer(next_slot);
	next_slot = (next_slot + 1) % SLOTS;
}

static void expect(enum event event)
{
	uint32_t size;
	const volatile struct control *message = next_message(&size);

	assert(message->port == 1 && message->event == event && message->value == 1);
	if (event == PORT_NAME) {
		print("port 1 is ");
		for (uint32_t i = sizeof(*message); i < size; i++)
			print("%c", arrived[next_slot][i]);
		print("\n");
	}
	used();
}

static uint32_t take_line(void)
{
	uint32_t size = 0;

	while (size == 0 || line[size - 1] != '\n') {
		struct buffer buffer = {line + size, LINE_SIZE - size};

		virtqueue_put(&receive, 0, &buffer, 0, 1);
		size += virtqueue_take(&receive);
		assert(size < LINE_SIZE);
	}
	return size;
}

static void give(uint32_t size)
{
	static const char before[] = "guest: ";
	struct buffer buffers[2] = {{answer, sizeof(before) - 1}, {line, size}};

	for (unsigned int i = 0; i < sizeof(before) - 1; i++)
		answer[i] = (uint8_t)before[i];
	virtqueue_put(&transmit, 0, buffers, 2, 0);
	(void)virtqueue_take(&transmit);
}

int guest_main(void)
{
	uint32_t size;

	if (!virtio_find(&device, VIRTIO_CONSOLE)) {
		print("there is no virtio console\n");
		return 2;
	}
	assert(virtio_negotiate_with(&device, FEATURE_MULTIPORT) == FEATURE_MULTIPORT);
	virtqueue_begin(&to_us, &device, 2);
	virtqueue_begin(&from_us, &device, 3);
	virtqueue_begin(&receive, &device, 4);
	virtqueue_begin(&transmit, &device, 5);
	virtio_ready(&device);
	for (unsigned int slot = 0; slot < SLOTS; slot++)
		offer(slot);
	say(0, DEVICE_READY, 1);
	expect(PORT_ADD);
	say(1, PORT_READY, 1);
	expect(PORT_NAME);
	say(1, PORT_OPEN, 1);
	/* When somebody has come. */
	expect(PORT_OPEN);
	do {
		size = take_line();
		give(size);
	} while (!(size == 4 && line[0] == 'e' && line[1] == 'n' && line[2] == 'd'));
	print("the end was said\n");
	return EXIT_SUCCESS;
}
