/* SPDX-License-Identifier: MIT */
/* Ping, both ways (RFC 792). */
#include "net.h"

#define ECHO_REPLY 0
#define ECHO 8
#define IDENTIFIER 0x7076
#define PATIENCE TICKS_PER_SECOND
#define LARGEST 1472

static struct {
	n32 address;
	uint32_t count, size, sent, answered;
	uint64_t since;
	bool is_under_way, is_out, is_told;
} ping;

/* `size` bytes behind the header, which lie at `payload` already. */
static void end_icmp(const struct slot *slot, volatile uint8_t *payload, struct icmp *icmp,
		     uint32_t size)
{
	uint32_t length = sizeof(*icmp) + size;

	icmp->checksum = 0;
	copy(payload, icmp, sizeof(*icmp));
	icmp->checksum = sum_end(sum_bytes(payload, length));
	copy(payload, icmp, sizeof(*icmp));
	card_send(slot, (uint32_t)IP_START + length, 0, 0);
}

static void answer(const struct packet *packet, struct icmp *icmp)
{
	struct peer peer = {.address = packet->ip.from};
	struct slot slot;
	volatile uint8_t *payload;

	if (packet->length + sizeof(struct ipv4) > host.card.mtu)
		return;
	copy(peer.mac, packet->ethernet.from, MAC_SIZE);
	if (!begin_packet(&slot, &peer, PROTOCOL_ICMP, packet->length, &payload))
		return;
	frame_copy(payload, packet->frame, packet->start, packet->length);
	icmp->kind = ECHO_REPLY;
	end_icmp(&slot, payload, icmp, packet->length - (uint32_t)sizeof(*icmp));
}

static uint8_t pattern(uint32_t sequence, uint32_t at)
{
	return (uint8_t)(sequence + at * 3);
}

static void take_answer(const struct packet *packet, const struct icmp *icmp)
{
	uint8_t data[LARGEST];
	uint32_t size = packet->length - (uint32_t)sizeof(*icmp);

	if (!ping.is_out || swap16(icmp->sequence) != (uint16_t)ping.sent ||
	    packet->ip.from != ping.address)
		return;
	if (size != ping.size) {
		print("ping %u is answered with %u bytes\n", ping.sent, size);
		return;
	}
	frame_copy(data, packet->frame, packet->start + (uint32_t)sizeof(*icmp), size);
	for (uint32_t at = 0; at < size; at++)
		if (data[at] != pattern(ping.sent, at))
			return;
	ping.is_under_way = ping.is_out = false;
	ping.answered++;
	print("ping %u is answered\n", ping.sent);
}

void icmp_arrived(const struct packet *packet)
{
	struct icmp icmp;

	if (!host.address || packet->length < sizeof(icmp) ||
	    sum_end(sum_frame(packet->frame, packet->start, packet->length)))
		return;
	frame_copy(&icmp, packet->frame, packet->start, sizeof(icmp));
	if (icmp.kind == ECHO)
		answer(packet, &icmp);
	else if (icmp.kind == ECHO_REPLY && icmp.identifier == swap16(IDENTIFIER))
		take_answer(packet, &icmp);
}

void ping_begin(n32 address, uint32_t count, uint32_t size)
{
	ping.address = address;
	ping.count = count;
	ping.size = size < LARGEST ? size : LARGEST;
}

/* When it is known where to: until then the wire is asked. */
static void try_to_send(void)
{
	struct icmp icmp = {.kind = ECHO, .identifier = swap16(IDENTIFIER)};
	struct peer peer;
	struct slot slot;
	volatile uint8_t *payload;

	if (!find_peer(ping.address, &peer) ||
	    !begin_packet(&slot, &peer, PROTOCOL_ICMP, (uint32_t)sizeof(icmp) + ping.size, &payload))
		return;
	icmp.sequence = swap16((uint16_t)ping.sent);
	for (uint32_t at = 0; at < ping.size; at++)
		payload[sizeof(icmp) + at] = pattern(ping.sent, at);
	end_icmp(&slot, payload, &icmp, ping.size);
	ping.is_out = true;
}

static void begin_next(void)
{
	if (ping.sent < ping.count) {
		ping.sent++;
		ping.since = now();
		ping.is_under_way = true;
	} else if (ping.count && !ping.is_told) {
		ping.is_told = true;
		print("pings of %u.%u.%u.%u: %u, answered: %u\n", ADDRESS(ping.address), ping.sent,
		      ping.answered);
	}
}

void ping_work(void)
{
	if (ping.is_under_way && now() - ping.since > PATIENCE) {
		print("ping %u is not answered\n", ping.sent);
		ping.is_under_way = ping.is_out = false;
	}
	if (!ping.is_under_way)
		begin_next();
	if (ping.is_under_way && !ping.is_out)
		try_to_send();
}

bool ping_is_over(void)
{
	return ping.is_told;
}

bool ping_was_answered(void)
{
	return ping.answered == ping.count;
}
