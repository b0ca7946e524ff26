/* SPDX-License-Identifier: MIT */
/*
 * The host's side of a guest on a tap, which is the guest "net".
 *
 *	network up TAP ADDRESS               makes the tap, which stays, with a network of 24 bits
 *	network measure GUEST MIB PINGS PACKETS   prints what it measures as a line of JSON, and ends the guest
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT_ECHO 7
#define PORT_DISCARD 9
#define PORT_CHARGEN 19
#define PATIENCE 120 /* seconds that a call may wait */
#define BLOCK (256 << 10)
#define SMALL 64 /* bytes of a small packet's payload */
#define BATCH 32
#define RECEIVE_BUFFER (8 << 20)
#define SILENCE_MS 300 /* in which nothing more comes of a flood */
#define MIB (1 << 20)

static struct in_addr guest;

static void fail(const char *what)
{
	fprintf(stderr, "network: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void be_patient(int fd, int milliseconds)
{
	struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		fail("a socket's time limit");
}

static int connected(int kind, uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = guest};
	int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0), buffer = RECEIVE_BUFFER;

	if (fd < 0)
		fail("a socket");
	be_patient(fd, PATIENCE * 1000);
	if (kind == SOCK_DGRAM && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)))
		fail("a socket's buffer");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("connecting to the guest");
	return fd;
}

static double to_guest(size_t bytes)
{
	static char block[BLOCK];
	int fd = connected(SOCK_STREAM, PORT_DISCARD);
	double begun = now();

	for (size_t left = bytes; left;) {
		ssize_t sent = send(fd, block, left < BLOCK ? left : BLOCK, 0);

		if (sent <= 0)
			fail("sending to the guest");
		left -= (size_t)sent;
	}
	if (shutdown(fd, SHUT_WR) || recv(fd, block, 1, 0) != 0)
		fail("the end of a stream to the guest");
	begun = now() - begun;
	close(fd);
	return (double)bytes / MIB / begun;
}

static double from_guest(size_t bytes)
{
	static char block[BLOCK];
	int fd = connected(SOCK_STREAM, PORT_CHARGEN);
	double begun = now();

	for (size_t got = 0; got < bytes;) {
		ssize_t more = recv(fd, block, BLOCK, 0);

		if (more <= 0)
			fail("receiving from the guest");
		got += (size_t)more;
	}
	begun = now() - begun;
	close(fd);
	return (double)bytes / MIB / begun;
}

static int by_value(const void *one, const void *two)
{
	double a = *(const double *)one, b = *(const double *)two;

	return (a > b) - (a < b);
}

/* The median of round trips of ICMP's echo, in microseconds. */
static double ping(unsigned int count)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = guest};
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	double *took = calloc(count, sizeof(*took)), middle;

	if (fd < 0 || !took)
		fail("a raw socket");
	be_patient(fd, PATIENCE * 1000);
	for (unsigned int i = 0; i < count; i++) {
		struct icmphdr echo = {.type = ICMP_ECHO, .un.echo = {htons(1), htons((uint16_t)i)}};
		struct {
			uint8_t ip[20];
			struct icmphdr icmp;
		} answer;
		uint32_t sum = htons(ICMP_ECHO << 8) + echo.un.echo.id + (uint32_t)echo.un.echo.sequence;

		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		echo.checksum = (uint16_t)~sum;
		took[i] = now();
		if (sendto(fd, &echo, sizeof(echo), 0, (struct sockaddr *)&address, sizeof(address)) < 0)
			fail("a ping");
		do {
			if (recv(fd, &answer, sizeof(answer), 0) < (ssize_t)sizeof(answer))
				fail("a ping's answer");
		} while (answer.icmp.type != ICMP_ECHOREPLY ||
			 answer.icmp.un.echo.sequence != echo.un.echo.sequence);
		took[i] = now() - took[i];
	}
	close(fd);
	qsort(took, count, sizeof(*took), by_value);
	middle = took[count / 2];
	free(took);
	return middle * 1e6;
}

struct batch {
	struct mmsghdr messages[BATCH];
	struct iovec vectors[BATCH];
	uint8_t bytes[BATCH][SMALL];
};

static struct batch *batch(void)
{
	static struct batch made;

	for (unsigned int i = 0; i < BATCH; i++) {
		made.vectors[i] = (struct iovec){made.bytes[i], SMALL};
		made.messages[i].msg_hdr =
			(struct msghdr){.msg_iov = &made.vectors[i], .msg_iovlen = 1};
	}
	return &made;
}

/* Small packets a second that arrive, of so many that the guest sends as fast as it can. */
static double packets_from_guest(uint32_t count)
{
	int fd = connected(SOCK_DGRAM, PORT_CHARGEN), more;
	uint32_t asked[2] = {count, SMALL}, got = 0, before = 0;
	double first = 0, last = 0;

	if (send(fd, asked, sizeof(asked), 0) != sizeof(asked))
		fail("asking for packets");
	/* Until all are there, or the rest is lost. */
	while (got < count &&
	       (more = recvmmsg(fd, batch()->messages, BATCH, MSG_WAITFORONE, NULL)) > 0) {
		last = now();
		if (!got) {
			first = last;
			before = (uint32_t)more;
			be_patient(fd, SILENCE_MS);
		}
		got += (uint32_t)more;
	}
	close(fd);
	if (last <= first)
		fail("packets from the guest");
	return (got - before) / (last - first);
}

/* Small packets a second that the guest sees, of so many that are sent as fast as is possible. */
static double packets_to_guest(uint32_t count)
{
	int fd = connected(SOCK_DGRAM, PORT_DISCARD);
	uint64_t counted[2];
	double begun = now(), sent_after;

	for (uint32_t sent = 0; sent < count;) {
		int more = sendmmsg(fd, batch()->messages, BATCH, 0);

		if (more <= 0)
			fail("packets to the guest");
		sent += (uint32_t)more;
	}
	/* Behind what is under way comes the question, which may be lost as they may. */
	be_patient(fd, SILENCE_MS);
	sent_after = now() - begun;
	for (unsigned int tries = 0; tries < 50; tries++) {
		if (send(fd, "", 0, 0) < 0)
			fail("asking for a count");
		if (recv(fd, counted, sizeof(counted), 0) == sizeof(counted)) {
			close(fd);
			return (double)counted[0] / (tries ? sent_after : now() - begun);
		}
	}
	fail("the guest's count");
	return 0;
}

static void end_guest(void)
{
	int fd = connected(SOCK_DGRAM, PORT_ECHO);
	char answer[3];

	if (send(fd, "end", 3, 0) != 3 || recv(fd, answer, 3, 0) != 3)
		fail("ending the guest");
	close(fd);
}

static int measure(char **arguments)
{
	size_t bytes = strtoul(arguments[1], NULL, 10) * MIB;
	unsigned int pings = (unsigned int)strtoul(arguments[2], NULL, 10);
	uint32_t packets = (uint32_t)strtoul(arguments[3], NULL, 10);

	if (!inet_aton(arguments[0], &guest) || !bytes || !pings || !packets) {
		fprintf(stderr, "network: measure GUEST MIB PINGS PACKETS\n");
		return 1;
	}
	(void)ping(pings / 10 + 1);
	printf("{\"ping_us\": %.3f", ping(pings));
	(void)to_guest(bytes / 8);
	printf(", \"to_guest_mib_per_s\": %.3f", to_guest(bytes));
	(void)from_guest(bytes / 8);
	printf(", \"from_guest_mib_per_s\": %.3f", from_guest(bytes));
	printf(", \"packets_to_guest_per_s\": %.3f", packets_to_guest(packets));
	printf(", \"packets_from_guest_per_s\": %.3f}\n", packets_from_guest(packets));
	end_guest();
	return 0;
}

static int up(const char *name, const char *address)
{
	int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	struct sockaddr_in *inet = (struct sockaddr_in *)&request.ifr_addr;

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (tap < 0 || control < 0 || ioctl(tap, TUNSETIFF, &request) || ioctl(tap, TUNSETPERSIST, 1))
		fail("making a tap");
	memset(&request.ifr_ifru, 0, sizeof(request.ifr_ifru));
	inet->sin_family = AF_INET;
	if (!inet_aton(address, &inet->sin_addr) || ioctl(control, SIOCSIFADDR, &request))
		fail("a tap's address");
	inet_aton("255.255.255.0", &inet->sin_addr);
	if (ioctl(control, SIOCSIFNETMASK, &request))
		fail("a tap's network");
	request.ifr_flags = IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &request))
		fail("a tap up");
	return 0;
}

int main(int count, char **arguments)
{
	if (count == 4 && !strcmp(arguments[1], "up"))
		return up(arguments[2], arguments[3]);
	if (count == 6 && !strcmp(arguments[1], "measure"))
		return measure(arguments + 2);
	fprintf(stderr, "network: up TAP ADDRESS, or measure GUEST MIB PINGS PACKETS\n");
	return 2;
}
