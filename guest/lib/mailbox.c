/* SPDX-License-Identifier: MIT */
/* A page that host and guest share to talk to each other. */
#include "mailbox.h"
#include "guest.h"
#include "pattern.h"
#include "private.h"

#define MIB2 (2UL << 20)
#define MAPPED_END (1UL << 32)

struct channel {
	uint64_t request, answer, command, result;
	uint64_t arguments[MAIL_ARGUMENTS_MAX];
};

_Static_assert(offsetof(struct channel, answer) == MAIL_ANSWER, "answer is elsewhere");
_Static_assert(offsetof(struct channel, command) == MAIL_COMMAND, "command is elsewhere");
_Static_assert(offsetof(struct channel, result) == MAIL_RESULT, "result is elsewhere");
_Static_assert(offsetof(struct channel, arguments) == MAIL_ARGUMENTS, "arguments are elsewhere");

static uint64_t page;

static struct channel *channel_at(uint64_t offset)
{
	assert(page);
	return (struct channel *)(page + offset);
}

void mailbox_open(void)
{
	struct span span;

	assert(!page);
	if (!memory_take(PAGE_SIZE, PAGE_SIZE, &span))
		panic("no room for the mailbox");

	int64_t result = memory_share(span.start, PAGE_SIZE);

	if (result)
		panic("the mailbox at 0x%lx cannot be shared: %ld", span.start, result);
	page = span.start;
	__atomic_store_n((uint64_t *)page, MAIL_MAGIC, __ATOMIC_RELEASE);
	print("mailbox at 0x%010lx\n", page);
}

static bool is_open(struct channel *channel)
{
	return __atomic_load_n(&channel->request, __ATOMIC_ACQUIRE) !=
	       __atomic_load_n(&channel->answer, __ATOMIC_ACQUIRE);
}

bool mailbox_has_request(void)
{
	return is_open(channel_at(MAIL_HOST_ASKS));
}

int64_t mailbox_ask(uint64_t command, uint64_t first, uint64_t second)
{
	struct channel *channel = channel_at(MAIL_GUEST_ASKS);

	channel->command = command;
	channel->arguments[0] = first;
	channel->arguments[1] = second;
	__atomic_store_n(&channel->request, channel->request + 1, __ATOMIC_RELEASE);
	while (is_open(channel))
		pause();
	return (int64_t)channel->result;
}

/* Words, all of them mapped. */
static bool is_mapped(uint64_t gpa, uint64_t size)
{
	return gpa % 8 == 0 && size % 8 == 0 && size <= MAPPED_END && gpa <= MAPPED_END - size;
}

static uint64_t take_memory(uint64_t size)
{
	struct span span;

	if (!size || size % PAGE_SIZE || !memory_take(size, MIB2, &span))
		return 0;
	return span.start;
}

static uint64_t access_memory(uint64_t command, const uint64_t *arguments)
{
	const struct span span = {arguments[0], arguments[0] + arguments[1]};
	volatile uint64_t *word = (volatile uint64_t *)arguments[0];
	bool is_word = command == MAIL_READ || command == MAIL_WRITE;

	if (!is_mapped(arguments[0], is_word ? sizeof(*word) : arguments[1]))
		return MAIL_INVALID;
	switch (command) {
	case MAIL_READ:
		return ~*word;
	case MAIL_WRITE:
		*word = arguments[1];
		return 0;
	case MAIL_FILL:
		pattern_fill(&span, arguments[2]);
		return 0;
	case MAIL_CHECK:
		return pattern_count_wrong(&span, arguments[2]);
	case MAIL_CHECK_ZERO:
		return zero_count_wrong(&span);
	default:
		return MAIL_INVALID;
	}
}

static uint64_t answer_to(uint64_t command, const uint64_t *arguments)
{
	switch (command) {
	case MAIL_END:
		return 0;
	case MAIL_ADD:
		return arguments[0] + arguments[1];
	case MAIL_SHARE:
		return (uint64_t)memory_share(arguments[0], arguments[1]);
	case MAIL_UNSHARE:
		return (uint64_t)memory_unshare(arguments[0], arguments[1]);
	case MAIL_CONVERT:
		return (uint64_t)memory_convert(arguments[0], arguments[1], arguments[2]);
	case MAIL_TAKE:
		return take_memory(arguments[0]);
	default:
		return access_memory(command, arguments);
	}
}

uint64_t mailbox_serve(void)
{
	struct channel *channel = channel_at(MAIL_HOST_ASKS);

	for (;;) {
		while (!is_open(channel))
			pause();

		/* The host may change the page while we look: what counts is looked at once. */
		uint64_t request = __atomic_load_n(&channel->request, __ATOMIC_ACQUIRE);
		uint64_t command = __atomic_load_n(&channel->command, __ATOMIC_RELAXED);
		uint64_t arguments[MAIL_ARGUMENTS_MAX];

		for (unsigned int i = 0; i < MAIL_ARGUMENTS_MAX; i++)
			arguments[i] =
				__atomic_load_n(&channel->arguments[i], __ATOMIC_RELAXED);
		channel->result = answer_to(command, arguments);
		__atomic_store_n(&channel->answer, request, __ATOMIC_RELEASE);
		if (command == MAIL_END)
			return arguments[0];
	}
}
