// SPDX-License-Identifier: MIT
// diskcheck DEVICE SEED OPERATIONS: random reads, writes, discards and zeroing of a disk under Linux,
// each compared with a copy in memory (in the manner of fsx). Overwrites the disk. Ends with 0 and a
// line that tells what was done, or with 1 and the first byte that is not what was written.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SECTOR = 512, LONGEST = 256 << 10, MOST = 64 << 20 };

static uint64_t state;
static uint8_t *known;
static uint8_t *buffer;
static uint64_t size;

static uint64_t any(uint64_t below)
{
	// xorshift64*: the same sequence everywhere.
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 2685821657736338717ull >> 16) % below;
}

static void fail(const char *what, uint64_t offset, uint64_t length)
{
	printf("diskcheck: %s of %llu bytes at %llu: %s\n", what, (unsigned long long)length,
	       (unsigned long long)offset, strerror(errno));
	exit(1);
}

static void compare(const char *when, uint64_t offset, uint64_t length)
{
	for (uint64_t at = 0; at < length; at++)
		if (buffer[at] != known[offset + at]) {
			printf("diskcheck: %s: byte %llu is 0x%02x, not 0x%02x\n", when,
			       (unsigned long long)(offset + at), buffer[at], known[offset + at]);
			exit(1);
		}
}

static void read_all(int fd, const char *when)
{
	for (uint64_t offset = 0; offset < size; offset += LONGEST) {
		uint64_t length = size - offset < LONGEST ? size - offset : LONGEST;

		if (pread(fd, buffer, length, offset) != (ssize_t)length)
			fail(when, offset, length);
		compare(when, offset, length);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: diskcheck DEVICE SEED OPERATIONS\n");
		return 2;
	}
	unsigned long operations = strtoul(argv[3], NULL, 0);
	unsigned long done[5] = {0};
	int refused[2] = {0};
	// One goes through the page cache, the other past it, in pieces that no page bounds.
	int cached = open(argv[1], O_RDWR | O_CLOEXEC), direct = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);

	state = strtoull(argv[2], NULL, 0) * 2 + 1;
	if (cached < 0 || direct < 0 || ioctl(cached, BLKGETSIZE64, &size))
		fail("opening", 0, 0);
	if (size > MOST)
		size = MOST;
	known = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	buffer = mmap(NULL, LONGEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (known == MAP_FAILED || buffer == MAP_FAILED)
		fail("taking memory", 0, size);
	for (uint64_t offset = 0; offset < size; offset += LONGEST) {
		uint64_t length = size - offset < LONGEST ? size - offset : LONGEST;

		if (pread(direct, known + offset, length, offset) != (ssize_t)length)
			fail("first reading", offset, length);
	}
	for (unsigned long number = 0; number < operations; number++) {
		uint64_t length = (1 + any(LONGEST / SECTOR)) * SECTOR, offset;
		unsigned kind = any(8);
		int fd = any(2) ? cached : direct;

		if (any(2))
			length = (1 + any(16)) * SECTOR;
		offset = any((size - length) / SECTOR + 1) * SECTOR;
		uint64_t range[2] = {offset, length};

		// What the page cache has must not be older than what goes past it.
		if (fd == direct && fdatasync(cached))
			fail("writing back", offset, length);
		switch (kind) {
		case 0: case 1: case 2:
			if (pread(fd, buffer, length, offset) != (ssize_t)length)
				fail("reading", offset, length);
			compare("reading", offset, length);
			done[0]++;
			break;
		case 3: case 4: case 5:
			for (uint64_t at = 0; at < length; at += 8) {
				uint64_t value = (offset + at) ^ state << 8;

				memcpy(buffer + at, &value, 8);
			}
			memcpy(known + offset, buffer, length);
			if (pwrite(fd, buffer, length, offset) != (ssize_t)length)
				fail("writing", offset, length);
			done[1]++;
			break;
		case 6:
			// A discarded sector may read as anything: write it anew, but ask for it.
			if (ioctl(cached, BLKDISCARD, range)) {
				if (errno != EOPNOTSUPP)
					fail("discarding", offset, length);
				refused[0]++;
			} else
				done[2]++;
			memset(buffer, 0x5a, length);
			memset(known + offset, 0x5a, length);
			if (pwrite(direct, buffer, length, offset) != (ssize_t)length)
				fail("writing again", offset, length);
			break;
		default:
			if (any(4) == 0) {
				if (fsync(cached))
					fail("flushing", offset, length);
				done[4]++;
			} else {
				if (ioctl(cached, BLKZEROOUT, range))
					fail("zeroing", offset, length);
				memset(known + offset, 0, length);
				done[3]++;
			}
		}
	}
	if (fsync(cached) || ioctl(cached, BLKFLSBUF, 0))
		fail("flushing", 0, size);
	read_all(direct, "last reading");
	printf("diskcheck: %lu reads, %lu writes, %lu discards (%d refused), %lu zeroings, %lu flushes: "
	       "as written\n", done[0], done[1], done[2], refused[0], done[3], done[4]);
	return 0;
}
