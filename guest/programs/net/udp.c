/* SPDX-License-Identifier: MIT */
/*
 * UDP (RFC 768). Port 7 sends back what it gets; "end" ends the program. Port 9 counts, and answers an empty
 * datagram with how many and how many bytes since the last. Port 19 is asked for COUNT datagrams of SIZE
 * bytes (two u32, little-endian), which come as fast as they can, numbered (u32).
 */
#include "net.h"

#define BURST 64

static struct {
	uint64_t datagrams, bytes;
} counted;

static struct {
	struct peer peer;
	uint16_t port;
	uint32_t count, size, sent;
} flood;

static uint32_t most(void)
{
	return host.card.mtu - (uint32_t)(sizeof(struct ipv4) + sizeof(struct udp));
}

/* What is to follow the header lies at `payload` already. */
static void end_udp(const struct slot *slot, volatile uint8_t *payload, const struct peer *peer,
		    uint16_t from, uint16_t to, uint32_t size)
{
	uint32_t length = (uint32_t)sizeof(struct udp) + size;
	struct udp udp = {.from = swap16(from), .to = swap16(to), .length = swap16((uint16_t)length)};
	uint64_t sum = sum_addresses(host.address, peer->address, PROTOCOL_UDP, length);

	if (host.card.features & NET_CHECKSUM) {
		udp.checksum = (uint16_t)~sum_end(sum);
		slot->header->flags = NET_NEEDS_CHECKSUM;
		slot->header->checksum_start = IP_START;
		slot->header->checksum_offset = offsetof(struct udp, checksum);
		copy(payload, &udp, sizeof(udp));
	} else {
		copy(payload, &udp, sizeof(udp));
		udp.checksum = sum_end(sum + sum_bytes(payload, length));
		if (!udp.checksum)
			udp.checksum = 0xffff;
		copy(payload, &udp, sizeof(udp));
	}
	card_send(slot, (uint32_t)IP_START + length, 0, 0);
}

bool udp_send(const struct peer *peer, uint16_t from, uint16_t to, const volatile void *data,
	      uint32_t size)
{
	struct slot slot;
	volatile uint8_t *payload;

	if (size > most() ||
	    !begin_packet(&slot, peer, PROTOCOL_UDP, (uint32_t)sizeof(struct udp) + size, &payload))
		return false;
	copy(payload + sizeof(struct udp), data, size);
	end_udp(&slot, payload, peer, from, to, size);
	return true;
}

static void echo(const struct packet *packet, const struct peer *peer, uint16_t port, uint32_t start,
		 uint32_t size)
{
	struct slot slot;
	volatile uint8_t *payload;

	if (size > most() ||
	    !begin_packet(&slot, peer, PROTOCOL_UDP, (uint32_t)sizeof(struct udp) + size, &payload))
		return;
	frame_copy(payload + sizeof(struct udp), packet->frame, start, size);
	if (size == 3 && is_same(payload + sizeof(struct udp), "end", 3))
		host.ends = true;
	end_udp(&slot, payload, peer, PORT_ECHO, port, size);
}

static void discard(const struct peer *peer, uint16_t port, uint32_t size)
{
	if (size) {
		counted.datagrams++;
		counted.bytes += size;
	} else if (udp_send(peer, PORT_DISCARD, port, &counted, sizeof(counted))) {
		counted.datagrams = counted.bytes = 0;
	}
}

static void begin_flood(const struct packet *packet, const struct peer *peer, uint16_t port,
			uint32_t start, uint32_t size)
{
	uint32_t asked[2];

	if (size != sizeof(asked))
		return;
	frame_copy(asked, packet->frame, start, size);
	flood.peer = *peer;
	flood.port = port;
	flood.sent = 0;
	flood.count = asked[0];
	flood.size = asked[1] < sizeof(flood.sent) ? sizeof(flood.sent)
		     : asked[1] > most()	   ? most()
						   : asked[1];
}

bool udp_work(void)
{
	struct slot slot;
	volatile uint8_t *payload;

	for (unsigned int i = 0; i < BURST && flood.sent < flood.count; i++) {
		if (!begin_packet(&slot, &flood.peer, PROTOCOL_UDP,
				  (uint32_t)sizeof(struct udp) + flood.size, &payload))
			return false;
		copy(payload + sizeof(struct udp), &flood.sent, sizeof(flood.sent));
		end_udp(&slot, payload, &flood.peer, PORT_CHARGEN, flood.port, flood.size);
		flood.sent++;
	}
	return flood.sent < flood.count;
}

static bool is_right(const struct packet *packet, const struct udp *udp, uint32_t length)
{
	if (!udp->checksum || packet->frame->header.flags & (NET_NEEDS_CHECKSUM | NET_DATA_VALID))
		return true;
	return !sum_end(sum_addresses(packet->ip.from, packet->ip.to, PROTOCOL_UDP, length) +
			sum_frame(packet->frame, packet->start, length));
}

void udp_arrived(const struct packet *packet)
{
	struct peer peer = {.address = packet->ip.from};
	struct udp udp;
	uint32_t length, start, size;

	if (packet->length < sizeof(udp))
		return;
	frame_copy(&udp, packet->frame, packet->start, sizeof(udp));
	length = swap16(udp.length);
	if (length < sizeof(udp) || length > packet->length || !is_right(packet, &udp, length))
		return;
	copy(peer.mac, packet->ethernet.from, MAC_SIZE);
	start = packet->start + (uint32_t)sizeof(udp);
	size = length - (uint32_t)sizeof(udp);
	if (udp.to == swap16(PORT_DHCP_CLIENT))
		dhcp_arrived(packet, start, size);
	else if (!host.address)
		return;
	else if (udp.to == swap16(PORT_ECHO))
		echo(packet, &peer, swap16(udp.from), start, size);
	else if (udp.to == swap16(PORT_DISCARD))
		discard(&peer, swap16(udp.from), size);
	else if (udp.to == swap16(PORT_CHARGEN))
		begin_flood(packet, &peer, swap16(udp.from), start, size);
}
