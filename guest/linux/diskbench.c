// SPDX-License-Identifier: MIT
// diskbench DEVICE MIB REQUESTS: how fast a disk is under Linux, past the page cache. One line of
// JSON: MiB/s of reading and writing MIB in pieces of 1 MiB, and requests/s of REQUESTS random reads
// of 4 KiB, one at a time and 32 at a time. Overwrites the disk.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, BLOCK = 4 << 10, DEPTH = 32 };

static uint64_t state = 88172645463325252ull;

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double sequential(int fd, uint8_t *buffer, unsigned long mib, int writing)
{
	double begin = now();

	for (unsigned long at = 0; at < mib; at++) {
		off_t offset = (off_t)at * MIB;
		ssize_t done = writing ? pwrite(fd, buffer, MIB, offset) : pread(fd, buffer, MIB, offset);

		if (done != MIB)
			fail(writing ? "write" : "read");
	}
	if (writing && fdatasync(fd))
		fail("fdatasync");
	return mib / (now() - begin);
}

static double one_at_a_time(int fd, uint8_t *buffer, unsigned long requests, uint64_t blocks)
{
	double begin = now();

	for (unsigned long number = 0; number < requests; number++)
		if (pread(fd, buffer, BLOCK, any(blocks) * BLOCK) != BLOCK)
			fail("read");
	return requests / (now() - begin);
}

static double many_at_a_time(int fd, uint8_t *buffer, unsigned long requests, uint64_t blocks)
{
	aio_context_t context = 0;
	struct iocb blocks_of[DEPTH], *asked[DEPTH];
	struct io_event events[DEPTH];
	unsigned long submitted = 0, done = 0;
	int free_slots[DEPTH], free_count = DEPTH;

	if (syscall(SYS_io_setup, DEPTH, &context))
		fail("io_setup");
	for (int slot = 0; slot < DEPTH; slot++)
		free_slots[slot] = slot;
	double begin = now();
	while (done < requests) {
		int count = 0;

		while (free_count && submitted < requests) {
			int slot = free_slots[--free_count];

			memset(&blocks_of[slot], 0, sizeof(blocks_of[slot]));
			blocks_of[slot].aio_fildes = fd;
			blocks_of[slot].aio_lio_opcode = IOCB_CMD_PREAD;
			blocks_of[slot].aio_buf = (uintptr_t)(buffer + slot * BLOCK);
			blocks_of[slot].aio_nbytes = BLOCK;
			blocks_of[slot].aio_offset = any(blocks) * BLOCK;
			blocks_of[slot].aio_data = slot;
			asked[count++] = &blocks_of[slot];
			submitted++;
		}
		if (count && syscall(SYS_io_submit, context, count, asked) != count)
			fail("io_submit");
		int ended = syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL);

		if (ended < 1)
			fail("io_getevents");
		for (int at = 0; at < ended; at++) {
			if (events[at].res != BLOCK)
				fail("read");
			free_slots[free_count++] = events[at].data;
		}
		done += ended;
	}
	return requests / (now() - begin);
}

int main(int argc, char **argv)
{
	uint64_t size;

	if (argc != 4) {
		fprintf(stderr, "usage: diskbench DEVICE MIB REQUESTS\n");
		return 2;
	}
	unsigned long mib = strtoul(argv[2], NULL, 0), requests = strtoul(argv[3], NULL, 0);
	int fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size))
		fail(argv[1]);
	if (mib * MIB > size) {
		fprintf(stderr, "diskbench: %s has %llu bytes\n", argv[1], (unsigned long long)size);
		return 2;
	}
	uint8_t *buffer = mmap(NULL, MIB, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (buffer == MAP_FAILED)
		fail("mmap");
	memset(buffer, 0xa5, MIB);
	double writing = sequential(fd, buffer, mib, 1), reading = sequential(fd, buffer, mib, 0);
	double alone = one_at_a_time(fd, buffer, requests, size / BLOCK);
	double together = many_at_a_time(fd, buffer, requests, size / BLOCK);

	printf("{\"write_mib\": %.2f, \"read_mib\": %.2f, \"depth_1\": %.1f, \"depth_32\": %.1f}\n",
	       writing, reading, alone, together);
	return 0;
}
