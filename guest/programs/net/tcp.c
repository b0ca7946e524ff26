/* SPDX-License-Identifier: MIT */
/* TCP: connections, and what arrives. What is out of order is not kept: it comes again. */
#include "tcp.h"

#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_SEGMENT 2
#define OPTION_SCALE 3
#define SEGMENT_OTHERWISE 536
#define SHIFT_MOST 14
#define OPTIONS_MOST 40
#define WITHOUT_END (1ull << 62)
#define FIRST_WAIT (TICKS_PER_SECOND / 4)
#define TRIES 8
#define REPEATED_MOST 3

static struct connection connections[CONNECTIONS];
static uint32_t next_first;

void tcp_begin(void)
{
	/* It need not be hard to guess. */
	next_first = (uint32_t)__builtin_ia32_rdtsc();
}

static struct connection *find(const struct packet *packet, const struct tcp *tcp)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &connections[i];

		if (connection->state != FREE && connection->peer.address == packet->ip.from &&
		    connection->peer_port == swap16(tcp->from) && connection->port == swap16(tcp->to))
			return connection;
	}
	return NULL;
}

void connection_free(struct connection *connection)
{
	connection->state = FREE;
}

static void take_options(struct connection *connection, const struct packet *packet, uint32_t start,
			 uint32_t size)
{
	uint8_t options[OPTIONS_MOST];
	uint32_t at = 0, largest = SEGMENT_OTHERWISE;

	frame_copy(options, packet->frame, start, size);
	while (at < size && options[at] != OPTION_END) {
		if (options[at] == OPTION_NOTHING) {
			at++;
			continue;
		}
		if (at + 2 > size || options[at + 1] < 2 || options[at + 1] > size - at)
			break;
		if (options[at] == OPTION_SEGMENT && options[at + 1] == 4)
			largest = (uint32_t)options[at + 2] << 8 | options[at + 3];
		if (options[at] == OPTION_SCALE && options[at + 1] == 3) {
			connection->scales = true;
			connection->peer_shift = options[at + 2] < SHIFT_MOST ? options[at + 2]
									      : SHIFT_MOST;
		}
		at += options[at + 1];
	}
	connection->segment = host.card.mtu - (uint32_t)(sizeof(struct ipv4) + sizeof(struct tcp));
	if (largest < connection->segment)
		connection->segment = largest ? largest : 1;
}

static struct connection *take_free(void)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		if (connections[i].state == FREE)
			return &connections[i];
	return NULL;
}

static void begin(const struct packet *packet, const struct tcp *tcp, uint32_t header)
{
	struct connection *connection = take_free();
	uint16_t port = swap16(tcp->to);
	uint8_t *buffer;

	if (!connection || (port != PORT_ECHO && port != PORT_DISCARD && port != PORT_CHARGEN)) {
		send_reset(packet, tcp, 0);
		return;
	}
	buffer = connection->buffer;
	if (port == PORT_ECHO && !buffer)
		buffer = card_memory(ECHO_BYTES);
	*connection = (struct connection){
		.state = HANDSHAKE,
		.peer = {.address = packet->ip.from},
		.peer_port = swap16(tcp->from),
		.port = port,
		.first = next_first,
		.peer_first = swap32(tcp->sequence),
		.next = swap32(tcp->sequence) + 1,
		.window = swap16(tcp->window),
		.since = now(),
		.buffer = buffer,
	};
	next_first += 0x10000;
	connection->edge = connection->next;
	copy(connection->peer.mac, packet->ethernet.from, MAC_SIZE);
	take_options(connection, packet, packet->start + (uint32_t)sizeof(*tcp),
		     header - (uint32_t)sizeof(*tcp));
	if (port == PORT_CHARGEN) {
		chargen_begin();
		connection->ready = WITHOUT_END;
	}
	send_beginning(connection);
}

/* False where the connection is over with it. */
static bool take_acknowledgement(struct connection *connection, const struct tcp *tcp, uint32_t size)
{
	uint32_t expected = connection->first + 1 + (uint32_t)connection->acked;
	uint32_t more = swap32(tcp->acknowledged) - expected;
	uint32_t window = (uint32_t)swap16(tcp->window) << connection->peer_shift;

	if (more > connection->highest - connection->acked)
		return true; /* Of the past, or the future. */
	if (more) {
		connection->acked += more;
		connection->since = now();
		connection->repeated = connection->tries = 0;
		if (connection->sent < connection->acked)
			connection->sent = connection->acked;
	} else if (!size && !(tcp->flags & TCP_END) && window == connection->window &&
		   connection->sent > connection->acked &&
		   ++connection->repeated == REPEATED_MOST) {
		connection->sent = connection->acked;
	}
	connection->window = window;
	return !(connection->peer_has_ended && connection->acked > connection->ready);
}

static void keep(struct connection *connection, const struct packet *packet, uint32_t start,
		 uint32_t size)
{
	while (size) {
		uint32_t at = (uint32_t)connection->ready % ECHO_BYTES, part = ECHO_BYTES - at;

		if (part > size)
			part = size;
		frame_copy(connection->buffer + at, packet->frame, start, part);
		connection->ready += part;
		start += part;
		size -= part;
	}
}

static void end(struct connection *connection)
{
	connection->peer_has_ended = true;
	connection->next++;
	if (connection->port == PORT_CHARGEN)
		connection->ready = connection->highest;
}

static void take_data(struct connection *connection, const struct packet *packet,
		      const struct tcp *tcp, uint32_t start, uint32_t size)
{
	uint32_t known = connection->next - swap32(tcp->sequence);
	uint32_t room = connection_room(connection);
	bool ends = tcp->flags & TCP_END;

	if (!size && !ends)
		return;
	connection->must_acknowledge = true;
	/* Of the future, of the past, or behind the end. */
	if (known > size || (known == size && !ends) || connection->peer_has_ended)
		return;
	start += known;
	size -= known;
	if (size > room) {
		size = room;
		ends = false;
	}
	if (connection->port == PORT_ECHO)
		keep(connection, packet, start, size);
	connection->next += size;
	if (ends)
		end(connection);
}

static void take_segment(struct connection *connection, const struct packet *packet,
			 const struct tcp *tcp, uint32_t header)
{
	uint32_t size = packet->length - header;

	if (tcp->flags & TCP_RESET) {
		if (tcp->sequence == swap32(connection->next))
			connection_free(connection);
		return;
	}
	if (tcp->flags & TCP_BEGIN && swap32(tcp->sequence) == connection->peer_first) {
		/* Again: what it is answered with must be as before. */
		if (connection->state == HANDSHAKE)
			send_beginning(connection);
		return;
	}
	if (tcp->flags & TCP_BEGIN) {
		/* By somebody who has forgotten the last one. */
		connection_free(connection);
		begin(packet, tcp, header);
		return;
	}
	if (!(tcp->flags & TCP_ACKNOWLEDGES))
		return;
	if (connection->state == HANDSHAKE) {
		if (tcp->acknowledged != swap32(connection->first + 1))
			return;
		connection->state = OPEN;
		connection->tries = 0;
	}
	if (take_acknowledgement(connection, tcp, size))
		take_data(connection, packet, tcp, packet->start + header, size);
	else
		connection_free(connection);
}

void tcp_arrived(const struct packet *packet)
{
	struct connection *connection;
	struct tcp tcp;
	uint32_t header;

	if (!host.address || packet->length < sizeof(tcp))
		return;
	frame_copy(&tcp, packet->frame, packet->start, sizeof(tcp));
	header = 4u * (tcp.words >> 4);
	if (header < sizeof(tcp) || header > packet->length)
		return;
	connection = find(packet, &tcp);
	if (connection)
		take_segment(connection, packet, &tcp, header);
	else if ((tcp.flags & (TCP_BEGIN | TCP_ACKNOWLEDGES | TCP_RESET)) == TCP_BEGIN)
		begin(packet, &tcp, header);
	else if (!(tcp.flags & TCP_RESET))
		send_reset(packet, &tcp, packet->length - header);
}

void tcp_work(void)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		if (connections[i].state == OPEN)
			connection_work(&connections[i]);
}

static bool waits(const struct connection *connection)
{
	return connection->state == HANDSHAKE || connection->sent > connection->acked ||
	       (connection->sent < connection->ready && !connection->window);
}

static void try_again(struct connection *connection)
{
	connection->since = now();
	if (connection->tries++ == TRIES) {
		connection_free(connection);
	} else if (connection->state == HANDSHAKE) {
		send_beginning(connection);
	} else {
		connection->sent = connection->acked;
		/* A closed window is asked by one byte. */
		if (!connection->window)
			connection->window = 1;
	}
}

void tcp_tick(void)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &connections[i];

		if (connection->state != FREE && waits(connection) &&
		    now() - connection->since >= (uint64_t)FIRST_WAIT << connection->tries)
			try_again(connection);
	}
}

bool tcp_is_idle(void)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		if (connections[i].state != FREE)
			return false;
	return true;
}
