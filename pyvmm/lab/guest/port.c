/* SPDX-License-Identifier: MIT */
/* The channel to the host: frames over a virtio-serial port that never blocks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lab.h"

/* Streams are read only while less than this waits to be written; what answers the host always may. */
#define ROOM (4 * DATA_MAX)

static int fd = -1;

static unsigned char *out;
static size_t out_start, out_end, out_size;

static unsigned char *in;
static size_t in_length, in_size;

#define PORTS "/sys/class/virtio-ports"
#define MOST_TRIES 5000

static bool has_name(const char *device, const char *name)
{
	char path[sizeof(PORTS) + 270], found[128];
	int file;
	ssize_t length;

	snprintf(path, sizeof(path), PORTS "/%s/name", device);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return false;
	length = read(file, found, sizeof(found) - 1);
	close(file);
	if (length <= 0)
		return false;
	found[length] = '\0';
	found[strcspn(found, "\n")] = '\0';
	return strcmp(found, name) == 0;
}

/* A port's number depends on the devices that there are, and the host tells its name when it likes. */
static int open_named(const char *name)
{
	DIR *ports = opendir(PORTS);
	int found = -1;

	if (!ports)
		return -1;
	for (struct dirent *entry; found < 0 && (entry = readdir(ports)) != NULL;) {
		char path[sizeof("/dev/") + sizeof(entry->d_name)];

		if (!has_name(entry->d_name, name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	}
	closedir(ports);
	return found;
}

void port_open(const char *name)
{
	for (int tries = 0; fd < 0 && tries < MOST_TRIES; tries++) {
		fd = open_named(name);
		if (fd < 0)
			usleep(1000);
	}
	if (fd < 0)
		give_up("find the port to the host");
	/* Until the host's end is known to be open, the port reads as ended. */
	for (int tries = 0; tries < MOST_TRIES; tries++) {
		struct pollfd state = { .fd = fd, .events = POLLOUT };

		if (poll(&state, 1, 0) < 0)
			give_up("poll the port");
		if (!(state.revents & POLLHUP))
			return;
		usleep(1000);
	}
	give_up("find the host at the other end of the port");
}

int port_fd(void)
{
	return fd;
}

bool port_wants_to_write(void)
{
	return out_end > out_start;
}

bool port_has_room(void)
{
	return out_end - out_start < ROOM;
}

/* Room for `more` bytes after `length` of them; memory that cannot be had ends the lab. */
static unsigned char *grown(unsigned char *buffer, size_t *size, size_t length, size_t more)
{
	if (length + more <= *size)
		return buffer;
	*size = (length + more) * 2;
	buffer = realloc(buffer, *size);
	if (!buffer)
		give_up("get memory for frames");
	return buffer;
}

void port_send(uint8_t type, uint8_t stream, uint32_t channel, const void *payload, size_t length)
{
	uint32_t words[2] = { channel, (uint32_t)length };

	if (out_start == out_end)
		out_start = out_end = 0;
	out = grown(out, &out_size, out_end, HEADER_SIZE + length);
	out[out_end] = type;
	out[out_end + 1] = stream;
	out[out_end + 2] = out[out_end + 3] = 0;
	memcpy(out + out_end + 4, words, sizeof(words));
	if (length)
		memcpy(out + out_end + HEADER_SIZE, payload, length);
	out_end += HEADER_SIZE + length;
}

void port_send_words(uint8_t type, uint8_t stream, uint32_t channel, uint32_t first,
		     uint32_t second, size_t count)
{
	uint32_t words[2] = { first, second };

	port_send(type, stream, channel, words, count * sizeof(words[0]));
}

void port_flush(void)
{
	while (out_start < out_end) {
		ssize_t written = write(fd, out + out_start, out_end - out_start);

		if (written < 0) {
			if (errno == EINTR)
				continue;
			/* Full, or the host has gone, which reading tells. */
			break;
		}
		out_start += (size_t)written;
	}
	if (out_start > ROOM) {
		memmove(out, out + out_start, out_end - out_start);
		out_end -= out_start;
		out_start = 0;
	}
}

static size_t take_frames(void (*take)(const struct frame *))
{
	size_t used = 0;

	while (in_length - used >= HEADER_SIZE) {
		const unsigned char *header = in + used;
		uint32_t words[2];
		struct frame frame;

		memcpy(words, header + 4, sizeof(words));
		frame = (struct frame){ header[0], header[1], words[0], words[1],
					header + HEADER_SIZE };
		if (frame.length > PAYLOAD_MAX)
			give_up("read the host's frames: one is too long");
		if (in_length - used - HEADER_SIZE < frame.length)
			break;
		take(&frame);
		used += HEADER_SIZE + frame.length;
	}
	return used;
}

bool port_receive(void (*take)(const struct frame *))
{
	for (int rounds = 0; rounds < 16; rounds++) {
		size_t used;
		ssize_t got;

		in = grown(in, &in_size, in_length, 2 * DATA_MAX);
		got = read(fd, in + in_length, in_size - in_length);
		if (got < 0)
			return errno == EAGAIN || errno == EINTR;
		if (got == 0)
			return false;
		in_length += (size_t)got;
		used = take_frames(take);
		in_length -= used;
		memmove(in, in + used, in_length);
	}
	return true;
}
