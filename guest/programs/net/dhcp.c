/* SPDX-License-Identifier: MIT */
/* A DHCP client (RFC 2131, RFC 2132): discover, offer, request, acknowledgement; leases are for ever. */
#include "net.h"

#define REQUEST 1
#define REPLY 2
#define COOKIE 0x63825363
#define OPTIONS 312
#define OPTION_MASK 1
#define OPTION_ROUTER 3
#define OPTION_ADDRESS 50
#define OPTION_KIND 53
#define OPTION_SERVER 54
#define OPTION_WANTED 55
#define OPTION_END 255
#define DISCOVER 1
#define OFFER 2
#define WANT 3
#define ACKNOWLEDGED 5
#define REFUSED 6
#define PATIENCE TICKS_PER_SECOND
#define TO_ALL 0x8000

struct message {
	uint8_t operation, medium, mac_size, hops;
	n32 transaction;
	n16 seconds, flags;
	n32 client, yours, server, relay;
	uint8_t mac[16];
	uint8_t names[192];
	n32 cookie;
	uint8_t options[OPTIONS];
} __attribute__((packed));

static enum { OFF, ASKING, WANTING, BOUND } state;
static struct message message;
static n32 offered, server;
static uint64_t since;
static uint32_t transaction;

static uint8_t *put_option(uint8_t *at, uint8_t number, uint8_t size, const void *data)
{
	*at++ = number;
	*at++ = size;
	copy(at, data, size);
	return at + size;
}

static void send(uint8_t kind)
{
	static const uint8_t wanted[] = {OPTION_MASK, OPTION_ROUTER};
	struct peer everybody = {.address = 0xffffffff};
	uint8_t *at = message.options;

	copy(everybody.mac, broadcast, MAC_SIZE);
	for (uint32_t i = 0; i < sizeof(message); i++)
		((uint8_t *)&message)[i] = 0;
	message.operation = REQUEST;
	message.medium = 1;
	message.mac_size = MAC_SIZE;
	message.transaction = swap32(transaction);
	message.flags = swap16(TO_ALL);
	copy(message.mac, host.card.mac, MAC_SIZE);
	message.cookie = swap32(COOKIE);
	at = put_option(at, OPTION_KIND, 1, &kind);
	if (kind == WANT) {
		at = put_option(at, OPTION_ADDRESS, 4, &offered);
		at = put_option(at, OPTION_SERVER, 4, &server);
	}
	at = put_option(at, OPTION_WANTED, sizeof(wanted), wanted);
	*at = OPTION_END;
	(void)udp_send(&everybody, PORT_DHCP_CLIENT, PORT_DHCP_SERVER, &message, sizeof(message));
	since = now();
}

void dhcp_begin(void)
{
	const uint8_t *mac = host.card.mac;

	transaction = (uint32_t)mac[2] << 24 | (uint32_t)mac[3] << 16 | (uint32_t)mac[4] << 8 | mac[5];
	state = ASKING;
	send(DISCOVER);
}

void dhcp_tick(void)
{
	if ((state != ASKING && state != WANTING) || now() - since < PATIENCE)
		return;
	state = ASKING;
	transaction++;
	send(DISCOVER);
}

bool dhcp_is_bound(void)
{
	return state == BOUND;
}

/* The value of an option of at least `size` bytes; NULL where there is none, or the options are broken. */
static const uint8_t *option(uint32_t length, uint8_t number, uint8_t size)
{
	uint32_t at = 0;

	while (at < length && message.options[at] != OPTION_END) {
		if (!message.options[at]) {
			at++;
			continue;
		}
		if (at + 2 > length || message.options[at + 1] > length - at - 2)
			return NULL;
		if (message.options[at] == number && message.options[at + 1] >= size)
			return &message.options[at + 2];
		at += 2u + message.options[at + 1];
	}
	return NULL;
}

static n32 option32(uint32_t length, uint8_t number)
{
	const uint8_t *value = option(length, number, 4);
	n32 result = 0;

	if (value)
		copy(&result, value, sizeof(result));
	return result;
}

void dhcp_arrived(const struct packet *packet, uint32_t start, uint32_t length)
{
	const uint32_t fixed = offsetof(struct message, options);
	const uint8_t *kind;

	if ((state != ASKING && state != WANTING) || length < fixed)
		return;
	if (length > sizeof(message))
		length = sizeof(message);
	frame_copy(&message, packet->frame, start, length);
	length -= fixed;
	kind = option(length, OPTION_KIND, 1);
	if (message.operation != REPLY || message.transaction != swap32(transaction) ||
	    message.cookie != swap32(COOKIE) || !kind ||
	    !is_same(message.mac, host.card.mac, MAC_SIZE))
		return;
	if (state == ASKING && *kind == OFFER) {
		offered = message.yours;
		server = option32(length, OPTION_SERVER);
		state = WANTING;
		send(WANT);
	} else if (state == WANTING && *kind == ACKNOWLEDGED && message.yours) {
		host.address = message.yours;
		host.mask = option32(length, OPTION_MASK);
		host.gateway = option32(length, OPTION_ROUTER);
		state = BOUND;
	} else if (state == WANTING && *kind == REFUSED) {
		state = ASKING;
		since = now();
	}
}
