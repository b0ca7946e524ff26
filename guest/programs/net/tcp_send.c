/* SPDX-License-Identifier: MIT */
/* TCP: what is sent. */
#include "tcp.h"

#define LONGEST 64000 /* of a segment that the card divides */
#define PERIOD 4096
#define HEADERS (IP_START + sizeof(struct tcp))

/* Bytes of port 19: that at offset x of the stream is byte x % PERIOD of this. */
static uint8_t *pattern;

void chargen_begin(void)
{
	if (pattern)
		return;
	pattern = card_memory(PERIOD + LONGEST);
	for (uint32_t at = 0; at < PERIOD; at++)
		pattern[at] = (uint8_t)(at * 7 + (at >> 8) * 13);
	for (uint32_t at = PERIOD; at < PERIOD + LONGEST; at += PERIOD) {
		uint32_t left = PERIOD + LONGEST - at;

		copy(pattern + at, pattern, left < PERIOD ? left : PERIOD);
	}
}

uint32_t connection_room(const struct connection *connection)
{
	if (connection->port == PORT_ECHO)
		return ECHO_BYTES - (uint32_t)(connection->ready - connection->acked);
	/* No more than there are buffers for, whatever the frames are. */
	return host.card.buffers * 1448;
}

/* The checksum, or what the card needs to work it out, and to divide it into segments. */
static void end_segment(const struct slot *slot, volatile uint8_t *payload, struct tcp *tcp,
			const struct connection *connection, uint32_t options,
			const volatile void *data, uint32_t size)
{
	uint32_t header = (uint32_t)sizeof(*tcp) + options;
	uint64_t sum = sum_addresses(host.address, connection->peer.address, PROTOCOL_TCP,
				     header + size);

	if (host.card.features & NET_CHECKSUM) {
		struct net_header net = {
			.flags = NET_NEEDS_CHECKSUM,
			.checksum_start = IP_START,
			.checksum_offset = offsetof(struct tcp, checksum),
		};

		if (size > connection->segment) {
			net.segmentation = NET_TCP4;
			net.header_length = (uint16_t)(IP_START + header);
			net.segment_size = (uint16_t)connection->segment;
		}
		*slot->header = net;
		tcp->checksum = (uint16_t)~sum_end(sum);
	} else {
		copy(payload, tcp, sizeof(*tcp));
		sum += sum_bytes(payload, header) + (size ? sum_bytes(data, size) : 0);
		tcp->checksum = sum_end(sum);
	}
	copy(payload, tcp, sizeof(*tcp));
	card_send(slot, (uint32_t)IP_START + header, data, size);
}

/* A segment with `size` bytes of the stream from `offset` on. False where the card has no room. */
static bool send_segment(struct connection *connection, uint8_t flags, uint64_t offset,
			 const volatile void *data, uint32_t size)
{
	uint32_t room = connection_room(connection);
	uint32_t window = connection->scales ? room >> WINDOW_SHIFT : room;
	struct tcp tcp = {
		.from = swap16(connection->port),
		.to = swap16(connection->peer_port),
		.sequence = swap32(connection->first + 1 + (uint32_t)offset),
		.acknowledged = swap32(connection->next),
		.words = sizeof(tcp) / 4 << 4,
		.flags = flags | TCP_ACKNOWLEDGES,
	};
	struct slot slot;
	volatile uint8_t *payload;

	if (window > 0xffff)
		window = 0xffff;
	tcp.window = swap16((uint16_t)window);
	if (!begin_packet(&slot, &connection->peer, PROTOCOL_TCP, (uint32_t)sizeof(tcp) + size,
			  &payload))
		return false;
	end_segment(&slot, payload, &tcp, connection, 0, data, size);
	connection->must_acknowledge = false;
	connection->edge =
		connection->next + (connection->scales ? window << WINDOW_SHIFT : window);
	return true;
}

void send_beginning(struct connection *connection)
{
	/* The largest segment; the shift of windows, behind one byte of nothing. */
	uint16_t largest = (uint16_t)(host.card.mtu - sizeof(struct ipv4) - sizeof(struct tcp));
	const uint8_t options[] = {2, 4, (uint8_t)(largest >> 8), (uint8_t)largest,
				   1, 3, 3, WINDOW_SHIFT};
	uint32_t size = connection->scales ? 8 : 4;
	uint32_t room = connection_room(connection);
	struct tcp tcp = {
		.from = swap16(connection->port),
		.to = swap16(connection->peer_port),
		.sequence = swap32(connection->first),
		.acknowledged = swap32(connection->next),
		.words = (uint8_t)((sizeof(tcp) + size) / 4 << 4),
		.flags = TCP_BEGIN | TCP_ACKNOWLEDGES,
		/* Never scaled. */
		.window = swap16((uint16_t)(room < 0xffff ? room : 0xffff)),
	};
	struct slot slot;
	volatile uint8_t *payload;

	if (!begin_packet(&slot, &connection->peer, PROTOCOL_TCP, (uint32_t)sizeof(tcp) + size,
			  &payload))
		return;
	copy(payload + sizeof(tcp), options, size);
	end_segment(&slot, payload, &tcp, connection, size, 0, 0);
}

void send_reset(const struct packet *packet, const struct tcp *tcp, uint32_t length)
{
	struct connection none = {
		.peer = {.address = packet->ip.from},
		.peer_port = swap16(tcp->from),
		.port = swap16(tcp->to),
		.next = swap32(tcp->sequence) + length + ((tcp->flags & TCP_BEGIN) != 0),
		.segment = 1,
	};

	if (tcp->flags & TCP_ACKNOWLEDGES)
		none.first = swap32(tcp->acknowledged) - 1;
	else
		none.first = ~0u;
	copy(none.peer.mac, packet->ethernet.from, MAC_SIZE);
	(void)send_segment(&none, TCP_RESET, 0, 0, 0);
}

/* How much of the stream goes into the next segment: 0 where it has to wait. */
static uint32_t next_size(const struct connection *connection)
{
	uint64_t under_way = connection->sent - connection->acked;
	uint64_t left = connection->ready - connection->sent;
	uint32_t at = (uint32_t)connection->sent % ECHO_BYTES;
	uint32_t room, most = connection->segment;

	if (connection->window <= under_way)
		return 0;
	room = connection->window - (uint32_t)under_way;
	if (host.card.features & NET_HOST_TSO4)
		most = LONGEST - LONGEST % connection->segment;
	/* Not in crumbs, as what is acknowledged makes room for them. */
	if (room < most && room < left && under_way && room < connection->window / 4)
		return 0;
	if (most > room)
		most = room;
	if (most > left)
		most = (uint32_t)left;
	if (connection->port == PORT_ECHO && most > ECHO_BYTES - at)
		most = ECHO_BYTES - at;
	return most;
}

static const uint8_t *next_bytes(const struct connection *connection)
{
	return connection->port == PORT_ECHO ? connection->buffer + connection->sent % ECHO_BYTES
					     : pattern + connection->sent % PERIOD;
}

static void note_sent(struct connection *connection, uint32_t size)
{
	if (connection->sent == connection->acked)
		connection->since = now();
	connection->sent += size;
	if (connection->highest < connection->sent)
		connection->highest = connection->sent;
}

void connection_work(struct connection *connection)
{
	uint32_t size;

	while (connection->sent < connection->ready && (size = next_size(connection))) {
		if (!send_segment(connection, TCP_PUSH, connection->sent, next_bytes(connection), size))
			return;
		note_sent(connection, size);
	}
	if (connection->peer_has_ended && connection->sent == connection->ready &&
	    send_segment(connection, TCP_END, connection->sent, 0, 0))
		note_sent(connection, 1);
	if (connection->next + connection_room(connection) - connection->edge >=
	    connection_room(connection) / 2 + 1)
		connection->must_acknowledge = true;
	if (connection->must_acknowledge)
		(void)send_segment(connection, 0, connection->sent, 0, 0);
}
