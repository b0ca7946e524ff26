/* SPDX-License-Identifier: MIT */
/* The loop: moves bytes between the commands and the port, and notices what ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lab.h"

/* How long a command may take to end after its client has gone. */
#define GRACE_MS 1000
#define POLLED_MAX 1024

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * The host's files behind cached mounts have changed. Without names in its cache the kernel asks the
 * host for each again, and a file of another version (its time and size, in QEMU's 9p) is a new file
 * to it. 4: say nothing about it.
 */
static void forget_names(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	(void)!write(fd, "4", 1);
	(void)!pwrite(fd, "2", 1, 0);
	close(fd);
}

static void begin(struct channel *channel, unsigned char *payload, size_t length)
{
	struct request request;

	if (!request_parse(&request, payload, length)) {
		refuse(channel, STEP_REQUEST, EINVAL);
		return;
	}
	if (preload_fits(&request))
		preload_command(channel, &request, payload, length);
	else
		start_command(channel, &request);
	request_free(&request);
}

/* Commands that waited for the preloaded process start now: by fork if it serves, else by exec. */
static void begin_waiting(void)
{
	for (struct channel *channel = channels; channel; channel = channel->next) {
		unsigned char *payload = channel->waiting;

		if (!payload || channel->finished)
			continue;
		channel->waiting = NULL;
		begin(channel, payload, channel->waiting_length);
		free(payload);
	}
}

static void open_channel(const struct frame *frame)
{
	struct channel *channel = calloc(1, sizeof(*channel));

	if (!channel || !(channel->input = malloc(WINDOW)))
		give_up("get memory for a command");
	channel->id = frame->channel;
	channel->input_fd = channel->terminal_fd = -1;
	for (int stream = 0; stream < 4; stream++)
		channel->out[stream] = (struct output){ .fd = -1, .credit = WINDOW };
	channel->next = channels;
	channels = channel;
	begin(channel, (unsigned char *)frame->payload, frame->length);
}

static void hang_up(struct channel *channel)
{
	channel->hung_up = true;
	channel->input_ended = true;
	channel->kill_at = now_ms() + GRACE_MS;
	if (channel->waiting)
		channel->finished = true;
	if (channel->pid && !channel->exited) {
		kill(-channel->pid, SIGHUP);
		kill(-channel->pid, SIGCONT);
	}
}

/* The ring's next bytes to the command, as many as it takes. */
static void feed(struct channel *channel)
{
	uint32_t taken = 0;

	while (channel->input_length && channel->input_fd >= 0) {
		size_t run = WINDOW - channel->input_start;
		ssize_t written;

		if (run > channel->input_length)
			run = channel->input_length;
		written = write(channel->input_fd, channel->input + channel->input_start, run);
		if (written < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (written < 0) {
			/* It reads no more: what is left, and what comes, goes nowhere. */
			if (channel->input_fd != channel->terminal_fd)
				close(channel->input_fd);
			channel->input_fd = -1;
			channel->input_length = 0;
			port_send(FRAME_CLOSE, STREAM_INPUT, channel->id, NULL, 0);
			return;
		}
		channel->input_start = (channel->input_start + (size_t)written) % WINDOW;
		channel->input_length -= (size_t)written;
		taken += (uint32_t)written;
	}
	if (taken)
		port_send_words(FRAME_CREDIT, STREAM_INPUT, channel->id, taken, 0, 1);
	if (channel->input_ended && !channel->input_length && channel->input_fd >= 0 &&
	    channel->input_fd != channel->terminal_fd) {
		close(channel->input_fd);
		channel->input_fd = -1;
	}
}

static void take_input(struct channel *channel, const struct frame *frame)
{
	size_t end = (channel->input_start + channel->input_length) % WINDOW;
	size_t first = WINDOW - end < frame->length ? WINDOW - end : frame->length;

	if (channel->input_ended || frame->length > WINDOW - channel->input_length)
		return;
	memcpy(channel->input + end, frame->payload, first);
	memcpy(channel->input, frame->payload + first, frame->length - first);
	channel->input_length += frame->length;
	/* A command that has not started yet gets it later. */
	if (channel->input_fd >= 0)
		feed(channel);
}

static void close_output(struct channel *channel, int stream)
{
	struct output *out = &channel->out[stream];

	if (out->fd < 0)
		return;
	/* The pty's master stays open for input and for its size. */
	if (stream != STREAM_TERMINAL)
		close(out->fd);
	out->fd = -1;
	if (!channel->hung_up)
		port_send(FRAME_CLOSE, (uint8_t)stream, channel->id, NULL, 0);
}

static void pass_signal(struct channel *channel, const uint32_t words[2])
{
	if (channel->pid && !channel->exited)
		kill(words[1] ? -channel->pid : channel->pid, (int)words[0]);
}

static void resize(struct channel *channel, const unsigned char *payload)
{
	struct winsize size;

	memcpy(&size, payload, sizeof(size));
	if (channel->terminal_fd >= 0)
		ioctl(channel->terminal_fd, TIOCSWINSZ, &size);
}

static void take(const struct frame *frame)
{
	struct channel *channel = channel_find(frame->channel);
	uint32_t words[2] = { 0, 0 };

	if (frame->type == FRAME_START && !channel) {
		open_channel(frame);
		return;
	}
	if (frame->type == FRAME_PRELOAD) {
		preload_start(frame);
		/* Those that waited for the one before. */
		begin_waiting();
		return;
	}
	if (frame->type == FRAME_FORGET) {
		forget_names();
		return;
	}
	/* What was sent before the host knew that the command had ended. */
	if (!channel)
		return;
	memcpy(words, frame->payload, frame->length < 8 ? frame->length : 8);
	if (frame->type == FRAME_DATA) {
		take_input(channel, frame);
	} else if (frame->type == FRAME_CLOSE && frame->stream == STREAM_INPUT) {
		channel->input_ended = true;
		feed(channel);
	} else if (frame->type == FRAME_CLOSE && frame->stream <= STREAM_TERMINAL) {
		close_output(channel, frame->stream);
	} else if (frame->type == FRAME_CREDIT && frame->stream <= STREAM_TERMINAL) {
		channel->out[frame->stream].credit += words[0];
	} else if (frame->type == FRAME_SIGNAL) {
		pass_signal(channel, words);
	} else if (frame->type == FRAME_RESIZE && frame->length == sizeof(struct winsize)) {
		resize(channel, frame->payload);
	} else if (frame->type == FRAME_HANGUP) {
		hang_up(channel);
	}
}

/* Reads a stream until it has nothing now; of a command that has ended, that is its end. */
static void drain(struct channel *channel, int stream)
{
	static unsigned char buffer[DATA_MAX];
	struct output *out = &channel->out[stream];

	while (out->fd >= 0 && port_has_room() && (out->credit || channel->hung_up)) {
		size_t room = sizeof(buffer);
		ssize_t got;

		if (!channel->hung_up && out->credit < room)
			room = out->credit;
		got = read(out->fd, buffer, room);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN) {
			if (channel->exited)
				close_output(channel, stream);
			return;
		}
		if (got <= 0) {
			/* The end of a pipe; EIO of a pty that nobody has open any more. */
			close_output(channel, stream);
			return;
		}
		if (channel->hung_up)
			continue;
		out->credit -= (uint32_t)got;
		port_send(FRAME_DATA, (uint8_t)stream, channel->id, buffer, (size_t)got);
		port_flush();
	}
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (preload_reaped(pid))
			continue;
		for (struct channel *channel = channels; channel; channel = channel->next)
			if (channel->pid == pid && !channel->exited)
				channel_exited(channel, status);
	}
}

static void finish(struct channel *channel)
{
	int status = channel->status;

	for (int stream = STREAM_OUTPUT; stream <= STREAM_TERMINAL; stream++) {
		drain(channel, stream);
		if (channel->out[stream].fd >= 0)
			return;
	}
	port_send_words(FRAME_EXITED, 0, channel->id, WIFSIGNALED(status) ? 1 : 0,
			(uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)),
			2);
	channel->finished = true;
}

static void sweep(void)
{
	struct channel **place = &channels;

	while (*place) {
		struct channel *channel = *place;

		if (channel->exited && !channel->finished)
			finish(channel);
		if (channel->kill_at && channel->pid && !channel->exited &&
		    now_ms() >= channel->kill_at) {
			kill(-channel->pid, SIGKILL);
			channel->kill_at = 0;
		}
		if (!channel->finished) {
			place = &channel->next;
			continue;
		}
		if (channel->hung_up)
			port_send_words(FRAME_EXITED, 0, channel->id, 0, 0, 2);
		*place = channel->next;
		close_channel(channel);
		free(channel);
	}
}

struct polled {
	struct pollfd fds[POLLED_MAX];
	struct channel *channel[POLLED_MAX];
	int stream[POLLED_MAX];
	nfds_t count;
};

static void add(struct polled *polled, int fd, short events, struct channel *channel, int stream)
{
	if (fd < 0 || polled->count == POLLED_MAX)
		return;
	polled->fds[polled->count] = (struct pollfd){ .fd = fd, .events = events };
	polled->channel[polled->count] = channel;
	polled->stream[polled->count] = stream;
	polled->count++;
}

static int gather(struct polled *polled, int signals)
{
	int timeout = -1;

	polled->count = 0;
	add(polled, port_fd(), port_wants_to_write() ? POLLIN | POLLOUT : POLLIN, NULL, 0);
	add(polled, signals, POLLIN, NULL, 0);
	add(polled, preload_fd(), POLLIN, NULL, 0);
	for (struct channel *channel = channels; channel; channel = channel->next) {
		for (int stream = STREAM_OUTPUT; stream <= STREAM_TERMINAL; stream++)
			if (port_has_room() && (channel->out[stream].credit || channel->hung_up))
				add(polled, channel->out[stream].fd, POLLIN, channel, stream);
		if (channel->input_length)
			add(polled, channel->input_fd, POLLOUT, channel, STREAM_INPUT);
		if (channel->kill_at)
			timeout = GRACE_MS / 10;
	}
	return timeout;
}

_Noreturn void serve(void)
{
	static struct polled polled;
	struct signalfd_siginfo info;
	sigset_t child;
	int signals;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
	if (signals < 0)
		give_up("wait for children");
	for (;;) {
		int timeout = gather(&polled, signals);

		if (poll(polled.fds, polled.count, timeout) < 0 && errno != EINTR)
			give_up("wait for something to do");
		for (nfds_t i = 0; i < polled.count; i++) {
			if (!polled.channel[i] || !polled.fds[i].revents)
				continue;
			if (polled.stream[i] == STREAM_INPUT)
				feed(polled.channel[i]);
			else
				drain(polled.channel[i], polled.stream[i]);
		}
		if (polled.fds[0].revents & ~POLLOUT && !port_receive(take))
			give_up("hear from the host: the channel is lost");
		while (read(signals, &info, sizeof(info)) > 0)
			;
		preload_receive();
		reap();
		if (preload_state() != PRELOAD_LOADING)
			begin_waiting();
		sweep();
		port_flush();
	}
}
