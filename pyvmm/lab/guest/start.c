/* SPDX-License-Identifier: MIT */
/* How a command begins: its request, its descriptors, its process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lab.h"

#define ARGUMENTS_MAX 1000000

static char **strings(char **cursor, char *end, uint32_t count)
{
	char **list = calloc((size_t)count + 1, sizeof(*list));

	for (uint32_t i = 0; list && i < count; i++) {
		char *zero = memchr(*cursor, 0, (size_t)(end - *cursor));

		if (!zero) {
			free(list);
			return NULL;
		}
		list[i] = *cursor;
		*cursor = zero + 1;
	}
	return list;
}

bool request_parse(struct request *request, unsigned char *payload, size_t length)
{
	char *cursor = (char *)payload + START_FIXED_SIZE;
	char *end = (char *)payload + length;
	uint32_t counts[2];
	char **places;

	memset(request, 0, sizeof(*request));
	if (length < START_FIXED_SIZE)
		return false;
	memcpy(&request->flags, payload, 4);
	memcpy(&request->mask, payload + 4, 4);
	memcpy(request->window, payload + 8, 8);
	memcpy(counts, payload + 16, 8);
	if (counts[0] == 0 || counts[0] > ARGUMENTS_MAX || counts[1] > ARGUMENTS_MAX)
		return false;
	places = strings(&cursor, end, 2);
	if (!places)
		return false;
	request->directory = places[0];
	request->token = places[1];
	free(places);
	request->arguments = strings(&cursor, end, counts[0]);
	request->environment = strings(&cursor, end, counts[1]);
	if (request->arguments && request->environment)
		return true;
	request_free(request);
	return false;
}

void request_free(struct request *request)
{
	free(request->arguments);
	free(request->environment);
	request->arguments = request->environment = NULL;
}

void refuse(struct channel *channel, uint32_t step, int error)
{
	if (!channel->hung_up)
		port_send_words(FRAME_REFUSED, 0, channel->id, step, (uint32_t)error, 2);
	channel->finished = true;
}

static int own_end(int fd)
{
	return fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int open_terminal(struct channel *channel, const struct request *request)
{
	struct winsize size = { request->window[0], request->window[1], request->window[2],
				request->window[3] };
	int slave;

	if (openpty(&channel->terminal_fd, &slave, NULL, NULL, &size) < 0)
		return -1;
	/* No other process exists that could fork between openpty and these. */
	fcntl(channel->terminal_fd, F_SETFD, FD_CLOEXEC);
	fcntl(slave, F_SETFD, FD_CLOEXEC);
	own_end(channel->terminal_fd);
	channel->out[STREAM_TERMINAL].fd = channel->terminal_fd;
	return slave;
}

/* The pipe of descriptor `which`: its end for the command, or -1. */
static int open_pipe(struct channel *channel, int which)
{
	int ends[2];
	int ours = which == 0 ? 1 : 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	own_end(ends[ours]);
	if (which == 0)
		channel->input_fd = ends[ours];
	else
		channel->out[which].fd = ends[ours];
	return ends[1 - ours];
}

int open_streams(struct channel *channel, const struct request *request, int theirs[3])
{
	uint32_t terminals = START_TERMINAL_INPUT | START_TERMINAL_OUTPUT | START_TERMINAL_ERROR;
	bool failed = false;
	int slave = -1;

	theirs[0] = theirs[1] = theirs[2] = -1;
	if (request->flags & terminals) {
		slave = open_terminal(channel, request);
		if (slave < 0)
			return -1;
	}
	for (int which = 0; which < 3 && !failed; which++) {
		if ((request->flags >> which) & START_CLOSED_INPUT)
			continue;
		if ((request->flags >> which) & START_TERMINAL_INPUT)
			theirs[which] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
		else
			theirs[which] = open_pipe(channel, which);
		failed = theirs[which] < 0;
	}
	if (slave >= 0)
		close(slave);
	if (request->flags & START_TERMINAL_INPUT)
		channel->input_fd = channel->terminal_fd;
	if (failed)
		close_theirs(theirs);
	return failed ? -1 : 0;
}

void close_theirs(int theirs[3])
{
	for (int which = 0; which < 3; which++) {
		if (theirs[which] >= 0)
			close(theirs[which]);
		theirs[which] = -1;
	}
}

void close_channel(struct channel *channel)
{
	if (channel->input_fd >= 0 && channel->input_fd != channel->terminal_fd)
		close(channel->input_fd);
	for (int stream = STREAM_OUTPUT; stream <= STREAM_ERROR; stream++)
		if (channel->out[stream].fd >= 0)
			close(channel->out[stream].fd);
	if (channel->terminal_fd >= 0)
		close(channel->terminal_fd);
	channel->input_fd = channel->terminal_fd = -1;
	channel->out[1].fd = channel->out[2].fd = channel->out[3].fd = -1;
	free(channel->input);
	free(channel->waiting);
	channel->input = channel->waiting = NULL;
}

static _Noreturn void fail(int report, uint32_t step)
{
	uint32_t words[2] = { step, (uint32_t)errno };

	(void)!write(report, words, sizeof(words));
	_exit(127);
}

static _Noreturn void become(const struct request *request, int theirs[3], int report)
{
	sigset_t none;
	int terminal = -1;

	sigemptyset(&none);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	umask((mode_t)request->mask);
	for (int which = 0; which < 3; which++) {
		if (theirs[which] < 0) {
			close(which);
			continue;
		}
		/* All of `theirs` are above 2: the first process has its own 0, 1 and 2 open. */
		dup2(theirs[which], which);
		if ((request->flags >> which) & START_TERMINAL_INPUT)
			terminal = which;
	}
	if (terminal >= 0)
		ioctl(terminal, TIOCSCTTY, 0);
	if (chdir(request->directory) < 0)
		fail(report, STEP_DIRECTORY);
	environ = request->environment;
	execvp(request->arguments[0], request->arguments);
	fail(report, STEP_EXECUTE);
}

void start_command(struct channel *channel, const struct request *request)
{
	uint32_t words[2];
	int theirs[3], report[2];
	ssize_t got;

	if (pipe2(report, O_CLOEXEC) < 0) {
		refuse(channel, STEP_RESOURCES, errno);
		return;
	}
	if (open_streams(channel, request, theirs) < 0 || (channel->pid = fork()) < 0) {
		channel->pid = 0;
		refuse(channel, STEP_RESOURCES, errno);
		close_theirs(theirs);
		close(report[0]);
		close(report[1]);
		return;
	}
	if (channel->pid == 0)
		become(request, theirs, report[1]);
	close_theirs(theirs);
	close(report[1]);
	/* Until exec closes the pipe: its result decides between STARTED and REFUSED. */
	do
		got = read(report[0], words, sizeof(words));
	while (got < 0 && errno == EINTR);
	close(report[0]);
	if (got == sizeof(words))
		refuse(channel, words[0], (int)words[1]);
	else
		port_send_words(FRAME_STARTED, 0, channel->id, (uint32_t)channel->pid, 0, 1);
}
