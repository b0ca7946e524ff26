/* SPDX-License-Identifier: MIT */
/* The commands that there are. */
#include "lab.h"

struct channel *channels;

struct channel *channel_find(uint32_t id)
{
	for (struct channel *channel = channels; channel; channel = channel->next)
		if (channel->id == id && !channel->finished)
			return channel;
	return NULL;
}

void channel_exited(struct channel *channel, int status)
{
	channel->exited = true;
	channel->status = status;
}
