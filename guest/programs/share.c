/* SPDX-License-Identifier: MIT */
/* Uses a shared folder without a file system: messages of 9P2000.L by hand. */
#include "guest.h"
#include "virtqueue.h"

#define VIRTIO_9P 9
#define FEATURE_TAG 1
#define MESSAGE_SIZE 4096
#define NO_FID 0xffffffff
#define HEADER_SIZE 7
#define RLERROR 7
#define O_WRONLY 1

GUEST_NEEDS(NEED_INTERRUPTS);

static struct virtio device;
static volatile struct virtqueue queue;
static volatile uint8_t request[MESSAGE_SIZE], reply[MESSAGE_SIZE];
static uint32_t length;

static void number(unsigned int size, uint64_t value)
{
	for (unsigned int i = 0; i < size; i++)
		request[length++] = (uint8_t)(value >> 8 * i);
}

static void text(const char *from)
{
	uint16_t size = 0;

	while (from[size])
		size++;
	number(2, size);
	for (unsigned int i = 0; i < size; i++)
		request[length++] = (uint8_t)from[i];
}

static void begin(uint8_t kind)
{
	length = 4;
	number(1, kind);
	number(2, 1);
}

static uint64_t field(unsigned int at, unsigned int size)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)reply[at + i] << 8 * i;
	return value;
}

/* Sends what has been put together, cut in two; the errno of the answer, 0 for none. */
static uint32_t ask(uint8_t kind)
{
	struct buffer buffers[4] = {
		{request, HEADER_SIZE},
		{request + HEADER_SIZE, length - HEADER_SIZE},
		{reply, 11},
		{reply + 11, MESSAGE_SIZE - 11},
	};
	uint32_t whole = length, written;

	length = 0;
	number(4, whole);
	virtqueue_put(&queue, 0, buffers, 2, 2);
	written = virtqueue_take(&queue);
	assert(written >= HEADER_SIZE && field(0, 4) == written && field(5, 2) == 1);
	if (reply[4] == RLERROR)
		return (uint32_t)field(HEADER_SIZE, 4);
	assert(reply[4] == kind + 1);
	return 0;
}

static uint32_t walk(uint32_t fid, uint32_t new_fid, const char *name)
{
	begin(110);
	number(4, fid);
	number(4, new_fid);
	number(2, name ? 1 : 0);
	if (name)
		text(name);
	return ask(110);
}

static uint32_t open_fid(uint32_t fid, uint32_t flags)
{
	begin(12);
	number(4, fid);
	number(4, flags);
	return ask(12);
}

static void attach(void)
{
	begin(100);
	number(4, MESSAGE_SIZE);
	text("9P2000.L");
	assert(ask(100) == 0 && field(HEADER_SIZE, 4) == MESSAGE_SIZE);
	begin(104);
	number(4, 0);
	number(4, NO_FID);
	text("root");
	text("");
	number(4, 0);
	assert(ask(104) == 0);
}

static uint32_t read_fid(uint32_t fid, uint64_t offset)
{
	begin(116);
	number(4, fid);
	number(8, offset);
	number(4, MESSAGE_SIZE);
	assert(ask(116) == 0);
	return (uint32_t)field(HEADER_SIZE, 4);
}

static void print_file(const char *name)
{
	uint32_t size;

	assert(walk(0, 1, name) == 0 && open_fid(1, 0) == 0);
	size = read_fid(1, 0);
	for (uint32_t i = 0; i < size; i++)
		print("%c", (char)reply[11 + i]);
	assert(read_fid(1, size) == 0);
	begin(120);
	number(4, 1);
	assert(ask(120) == 0);
}

/* The errno of making a file, which gets `contents`. */
static uint32_t write_file(const char *name, const char *contents)
{
	uint32_t error, size = 0;

	assert(walk(0, 2, NULL) == 0);
	begin(14);
	number(4, 2);
	text(name);
	number(4, O_WRONLY);
	number(4, 0644);
	number(4, 0);
	error = ask(14);
	if (error)
		return error;
	while (contents[size])
		size++;
	begin(118);
	number(4, 2);
	number(8, 0);
	number(4, size);
	for (uint32_t i = 0; i < size; i++)
		request[length++] = (uint8_t)contents[i];
	assert(ask(118) == 0 && field(HEADER_SIZE, 4) == size);
	return 0;
}

int guest_main(void)
{
	uint32_t size;

	if (!virtio_find(&device, VIRTIO_9P)) {
		print("there is no virtio folder\n");
		return 2;
	}
	assert(virtio_negotiate_with(&device, FEATURE_TAG) == FEATURE_TAG);
	virtqueue_begin(&queue, &device, 0);
	virtio_ready(&device);
	size = virtio_config(&device, 0) & 0xffff;
	print("a folder is shared as ");
	for (uint32_t i = 0; i < size; i++)
		print("%c", (char)(virtio_config(&device, (2 + i) & ~3U) >> 8 * ((2 + i) & 3)));
	print("\n");
	attach();
	print_file("hello");
	print("outside: errno %u\n", walk(0, 1, "../outside"));
	print("through a link: errno %u\n", walk(0, 1, "link") ? 1 : open_fid(1, 0));
	print("to write: errno %u\n", write_file("written", "by the guest\n"));
	/* A reset forgets all fids. */
	virtio_negotiate_with(&device, FEATURE_TAG);
	virtqueue_begin(&queue, &device, 0);
	virtio_ready(&device);
	attach();
	print_file("hello");
	return EXIT_SUCCESS;
}
