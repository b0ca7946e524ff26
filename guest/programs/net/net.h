/* SPDX-License-Identifier: MIT */
/* A host on an IPv4 network: what its parts share. Numbers of packets are in network order: n16, n32. */
#ifndef NET_H
#define NET_H

#include "guest.h"
#include "virtio_net.h"

#define KIND_IPV4 0x0800
#define KIND_ARP 0x0806
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

#define PORT_ECHO 7
#define PORT_DISCARD 9
#define PORT_CHARGEN 19
#define PORT_DHCP_SERVER 67
#define PORT_DHCP_CLIENT 68

/* The timer's, which is all that this host knows of time. */
#define TICKS_PER_SECOND 20

typedef uint16_t n16;
typedef uint32_t n32;

static inline n16 swap16(uint16_t value)
{
	return __builtin_bswap16(value);
}

static inline n32 swap32(uint32_t value)
{
	return __builtin_bswap32(value);
}

struct ethernet {
	uint8_t to[MAC_SIZE], from[MAC_SIZE];
	n16 kind;
} __attribute__((packed));

struct ipv4 {
	uint8_t version_words, service;
	n16 length, identification, fragment;
	uint8_t hops, protocol;
	n16 checksum;
	n32 from, to;
} __attribute__((packed));

struct udp {
	n16 from, to, length, checksum;
} __attribute__((packed));

struct icmp {
	uint8_t kind, code;
	n16 checksum, identifier, sequence;
} __attribute__((packed));

struct tcp {
	n16 from, to;
	n32 sequence, acknowledged;
	uint8_t words, flags;
	n16 window, checksum, urgent;
} __attribute__((packed));

/* An IPv4 packet that came: its payload is at [start, start + length) of the frame. */
struct packet {
	const struct frame *frame;
	struct ethernet ethernet;
	struct ipv4 ip;
	uint32_t start, length;
};

/* Who is at the other end. */
struct peer {
	uint8_t mac[MAC_SIZE];
	n32 address;
};

/* This host. */
struct host {
	struct card_facts card;
	n32 address, mask, gateway;
	bool has_link;
	bool ends; /* somebody said so */
};

extern struct host host;
extern const uint8_t broadcast[MAC_SIZE];

/* Ticks since the start. */
uint64_t now(void);
/* An address, as print's "%u.%u.%u.%u" takes it. */
#define ADDRESS(address)                                                                           \
	(address) & 0xff, (address) >> 8 & 0xff, (address) >> 16 & 0xff, (address) >> 24

/* bytes.c: copies, and the Internet checksum (RFC 1071), in sums of no particular byte order. */
void copy(volatile void *to, const volatile void *from, uint32_t size);
bool is_same(const volatile void *one, const volatile void *two, uint32_t size);
/* Copies a part of a frame, which it must have. */
void frame_copy(volatile void *to, const struct frame *frame, uint32_t start, uint32_t size);
uint64_t sum_bytes(const volatile void *bytes, uint32_t size);
uint64_t sum_frame(const struct frame *frame, uint32_t start, uint32_t size);
uint64_t sum_addresses(n32 from, n32 to, uint8_t protocol, uint32_t length);
uint16_t sum_end(uint64_t sum);

/* ip.c: Ethernet, ARP, IPv4. */
void frame_arrived(const struct frame *frame);
/* Tells everybody on the wire this host's address. */
void announce(void);
/* Asks for who has an address, or for its gateway's; true when it is known. */
bool find_peer(n32 address, struct peer *peer);
/* A slot with Ethernet's and IP's headers, for `length` bytes behind them; they end at *payload. */
bool begin_packet(struct slot *slot, const struct peer *peer, uint8_t protocol, uint32_t length,
		  volatile uint8_t **payload);
#define IP_START (ETHERNET_SIZE + sizeof(struct ipv4))

/* icmp.c */
void icmp_arrived(const struct packet *packet);
/* Pings `address`, `count` times, each when the one before was answered or waited for long enough. */
void ping_begin(n32 address, uint32_t count, uint32_t size);
void ping_work(void);
bool ping_is_over(void);
bool ping_was_answered(void);

/* udp.c: echo, discard and chargen. */
void udp_arrived(const struct packet *packet);
/* Floods a part of what it was asked for; true when there is more to do at once. */
bool udp_work(void);
bool udp_send(const struct peer *peer, uint16_t from, uint16_t to, const volatile void *data,
	      uint32_t size);

/* dhcp.c */
void dhcp_begin(void);
void dhcp_arrived(const struct packet *packet, uint32_t start, uint32_t length);
void dhcp_tick(void);
bool dhcp_is_bound(void);

/* tcp.c and tcp_send.c: echo, discard and chargen. */
void tcp_begin(void);
void tcp_arrived(const struct packet *packet);
/* Sends what there is to send, and acknowledges. */
void tcp_work(void);
void tcp_tick(void);
bool tcp_is_idle(void);

#endif
