// SPDX-License-Identifier: MIT
// nettransfer serve PORT: answer until killed; says "serving" when it does.
// nettransfer ADDRESS PORT MIB STREAMS: send MIB over TCP, then receive as much, over each of STREAMS
// connections at once; both sides compare every byte with what it is to be. One line of JSON: MiB/s
// of all of them together. Ends with 1 where a byte differs or a connection fails.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, PIECE = 64 << 10, WORDS = PIECE / 8 };

// What a client asks for: bytes of the sequence that begins with `seed`, one way or the other.
struct wish {
	uint64_t to_client;
	uint64_t mib;
	uint64_t seed;
};

static uint64_t piece[WORDS], expected[WORDS];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void next_piece(uint64_t *words, uint64_t *state)
{
	for (int i = 0; i < WORDS; i++) {
		*state ^= *state << 13;
		*state ^= *state >> 7;
		*state ^= *state << 17;
		words[i] = *state;
	}
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void put(int fd, const void *data, size_t size)
{
	for (const char *at = data; size;) {
		ssize_t done = write(fd, at, size);

		if (done <= 0)
			fail("send");
		at += done;
		size -= (size_t)done;
	}
}

static int get(int fd, void *data, size_t size)
{
	for (char *at = data; size;) {
		ssize_t done = read(fd, at, size);

		if (done < 0)
			fail("receive");
		if (done == 0)
			return 0;
		at += done;
		size -= (size_t)done;
	}
	return 1;
}

static void give(int fd, uint64_t mib, uint64_t state)
{
	for (uint64_t i = 0; i < mib * (MIB / PIECE); i++) {
		next_piece(piece, &state);
		put(fd, piece, PIECE);
	}
}

static void take(int fd, uint64_t mib, uint64_t state)
{
	for (uint64_t i = 0; i < mib * (MIB / PIECE); i++) {
		next_piece(expected, &state);
		if (!get(fd, piece, PIECE)) {
			fprintf(stderr, "the connection ended after %llu KiB\n",
				(unsigned long long)i * (PIECE >> 10));
			exit(1);
		}
		if (memcmp(piece, expected, PIECE)) {
			fprintf(stderr, "bytes differ within KiB %llu\n",
				(unsigned long long)i * (PIECE >> 10));
			exit(1);
		}
	}
}

static void answer(int fd)
{
	struct wish wish;

	if (!get(fd, &wish, sizeof wish))
		return;
	if (wish.to_client) {
		give(fd, wish.mib, wish.seed);
	} else {
		take(fd, wish.mib, wish.seed);
		// The client waits for this: all has arrived, and was as it should be.
		put(fd, &wish, sizeof wish);
	}
}

static struct sockaddr_in address_of(const char *name, const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (name && inet_pton(AF_INET, name, &address.sin_addr) != 1) {
		fprintf(stderr, "%s is no IPv4 address\n", name);
		exit(2);
	}
	return address;
}

static int serve(const char *port)
{
	struct sockaddr_in address = address_of(NULL, port);
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	signal(SIGCHLD, SIG_IGN);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
		fail("listen");
	puts("serving");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			fail("accept");
		if (fork() == 0) {
			close(listener);
			answer(fd);
			_exit(0);
		}
		close(fd);
	}
}

static void ask(struct sockaddr_in address, struct wish wish)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&address, sizeof address))
		fail("connect");
	put(fd, &wish, sizeof wish);
	if (wish.to_client) {
		take(fd, wish.mib, wish.seed);
	} else {
		give(fd, wish.mib, wish.seed);
		if (!get(fd, &wish, sizeof wish)) {
			fprintf(stderr, "the other side did not get what was sent\n");
			exit(1);
		}
	}
	close(fd);
}

// MiB/s of all streams together, one way.
static double transfer(struct sockaddr_in address, uint64_t to_client, uint64_t mib, int streams)
{
	double begin = now();

	for (int i = 0; i < streams; i++) {
		if (fork() == 0) {
			ask(address, (struct wish){ to_client, mib, 88172645463325252ull + (uint64_t)i });
			_exit(0);
		}
	}
	for (int i = 0; i < streams; i++) {
		int status;

		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
			exit(1);
	}
	return (double)(mib * (uint64_t)streams) / (now() - begin);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc != 5) {
		fprintf(stderr, "usage: nettransfer serve PORT | nettransfer ADDRESS PORT MIB STREAMS\n");
		return 2;
	}
	struct sockaddr_in address = address_of(argv[1], argv[2]);
	uint64_t mib = (uint64_t)atoll(argv[3]);
	double sent = transfer(address, 0, mib, atoi(argv[4]));
	double received = transfer(address, 1, mib, atoi(argv[4]));

	printf("{\"sent\": %.1f, \"received\": %.1f}\n", sent, received);
	return 0;
}
