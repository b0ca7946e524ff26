/* SPDX-License-Identifier: MIT */
/*
 * The preloaded process: a Python with pyvmm imported (pyvmm/lab/preload.py), which forks for each
 * pyvmm command because importing takes seconds of emulated CPU. It talks to us over a pair of
 * sockets that keep messages apart.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lab.h"

/* What it says: kind, channel, and two words (pyvmm/lab/preload.py has the same). */
enum { SAYS_READY = 1, SAYS_STARTED = 2, SAYS_EXITED = 3, SAYS_REFUSED = 4 };

static int fd = -1;
static pid_t server;
static enum preload_state state;
static char *token;

int preload_fd(void)
{
	return fd;
}

enum preload_state preload_state(void)
{
	return state;
}

bool preload_fits(const struct request *request)
{
	return (request->flags & START_MAY_FORK) && state != PRELOAD_NONE &&
	       strcmp(token, request->token) == 0;
}

static void gone(void)
{
	uint32_t words[1] = { PRELOAD_GONE };

	if (fd >= 0)
		close(fd);
	fd = -1;
	server = 0;
	state = PRELOAD_NONE;
	for (struct channel *channel = channels; channel; channel = channel->next)
		if (channel->preloaded && !channel->pid && !channel->finished)
			refuse(channel, STEP_RESOURCES, ECHILD);
	port_send(FRAME_PRELOADED, 0, 0, words, sizeof(words));
}

static _Noreturn void become_server(const struct request *request, int end)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	/* Its output goes where ours goes, to the kernel's log: it has nothing to say when all is well. */
	if (dup2(end, 3) < 0 || fcntl(3, F_SETFD, 0) < 0 || chdir("/") < 0)
		_exit(126);
	environ = request->environment;
	execvp(request->arguments[0], request->arguments);
	_exit(127);
}

void preload_start(const struct frame *frame)
{
	struct request request;
	int ends[2];

	if (server) {
		/* A newer pyvmm takes the place of the one that is loaded. Its children live on. */
		kill(server, SIGKILL);
		gone();
	}
	if (!request_parse(&request, (unsigned char *)frame->payload, frame->length))
		give_up("read the host's request to preload");
	free(token);
	token = strdup(request.token);
	if (!token || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		give_up("prepare for a preloaded process");
	server = fork();
	if (server == 0)
		become_server(&request, ends[1]);
	close(ends[1]);
	request_free(&request);
	if (server < 0) {
		close(ends[0]);
		gone();
		return;
	}
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	fd = ends[0];
	state = PRELOAD_LOADING;
}

/* The request as a file, so that no message is large: -1 where that fails. */
static int as_file(const void *payload, size_t length)
{
	int file = memfd_create("request", MFD_CLOEXEC);
	size_t written = 0;

	while (file >= 0 && written < length) {
		ssize_t step = write(file, (const char *)payload + written, length - written);

		if (step <= 0) {
			close(file);
			return -1;
		}
		written += (size_t)step;
	}
	return file;
}

static bool hand_over(const struct channel *channel, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	uint32_t id = channel->id;
	struct iovec body = { &id, sizeof(id) };
	struct msghdr message = { .msg_iov = &body, .msg_iovlen = 1, .msg_control = &control };
	struct cmsghdr *rights = &control.align;

	memset(&control, 0, sizeof(control));
	message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof(id);
}

void preload_command(struct channel *channel, struct request *request, const void *payload,
		     size_t length)
{
	int theirs[3] = { -1, -1, -1 };
	int fds[4];
	size_t count = 1;
	bool sent = false;

	if (state == PRELOAD_LOADING) {
		channel->waiting = malloc(length);
		if (!channel->waiting) {
			refuse(channel, STEP_RESOURCES, ENOMEM);
			return;
		}
		memcpy(channel->waiting, payload, length);
		channel->waiting_length = length;
		return;
	}
	fds[0] = as_file(payload, length);
	if (fds[0] >= 0 && open_streams(channel, request, theirs) == 0) {
		for (int which = 0; which < 3; which++)
			if (theirs[which] >= 0)
				fds[count++] = theirs[which];
		channel->preloaded = true;
		sent = hand_over(channel, fds, count);
	}
	close_theirs(theirs);
	if (fds[0] >= 0)
		close(fds[0]);
	if (!sent)
		refuse(channel, STEP_RESOURCES, errno);
}

void preload_receive(void)
{
	uint32_t said[4];
	struct channel *channel;
	ssize_t got;

	while (fd >= 0) {
		got = recv(fd, said, sizeof(said), 0);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got != sizeof(said)) {
			/* It has ended: its status comes by waitpid, which calls preload_reaped. */
			close(fd);
			fd = -1;
			return;
		}
		if (said[0] == SAYS_READY) {
			uint32_t words[1] = { PRELOAD_READY };

			state = PRELOAD_SERVING;
			port_send(FRAME_PRELOADED, 0, 0, words, sizeof(words));
			continue;
		}
		channel = channel_find(said[1]);
		if (!channel)
			continue;
		if (said[0] == SAYS_STARTED) {
			channel->pid = (pid_t)said[2];
			if (channel->hung_up)
				kill(-channel->pid, SIGKILL);
			port_send_words(FRAME_STARTED, 0, channel->id, said[2], 0, 1);
		} else if (said[0] == SAYS_EXITED) {
			channel_exited(channel, (int)said[2]);
		} else if (said[0] == SAYS_REFUSED) {
			refuse(channel, said[2], (int)said[3]);
		}
	}
}

bool preload_reaped(pid_t pid)
{
	if (pid != server)
		return false;
	preload_receive();
	gone();
	return true;
}
