/* SPDX-License-Identifier: MIT */
/* The lab's first process: what its files share. */
#ifndef PYVMM_LAB_H
#define PYVMM_LAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire.h"

struct frame {
	uint8_t type;
	uint8_t stream;
	uint32_t channel;
	uint32_t length;
	const unsigned char *payload;
};

/* One of a command's streams, towards the host. */
struct output {
	int fd; /* -1: never opened, or finished */
	uint32_t credit;
};

/* A command. */
struct channel {
	struct channel *next;
	uint32_t id;
	pid_t pid;       /* 0: not started yet */
	bool preloaded;  /* a child of the preloaded process, which reports its status */
	bool exited;
	bool hung_up;    /* nobody listens any more */
	bool finished;   /* to be freed */
	int status;      /* as waitpid gives it */
	int64_t kill_at; /* milliseconds; 0: never */
	struct output out[4]; /* by stream; [0] is not used */
	int input_fd;
	int terminal_fd; /* the pty's master; also out[STREAM_TERMINAL].fd while that is open */
	bool input_ended;
	unsigned char *input; /* a ring of WINDOW bytes */
	size_t input_start, input_length;
	unsigned char *waiting; /* a START that waits for the preloaded process to be ready */
	size_t waiting_length;
};

/* A START, taken apart. Pointers go into the frame, except the arrays. */
struct request {
	uint32_t flags;
	uint32_t mask;
	uint16_t window[4]; /* rows, columns, and both in pixels */
	const char *directory;
	const char *token;
	char **arguments;
	char **environment;
};

/* init.c */
_Noreturn void give_up(const char *what);
extern uint32_t kernel_facts;

/* port.c: the channel to the host */
/* By the name that the host has given the port. */
void port_open(const char *name);
int port_fd(void);
bool port_wants_to_write(void);
bool port_has_room(void);
void port_send(uint8_t type, uint8_t stream, uint32_t channel, const void *payload, size_t length);
void port_send_words(uint8_t type, uint8_t stream, uint32_t channel, uint32_t first,
		     uint32_t second, size_t count);
void port_flush(void);
/* Reads what is there and hands every whole frame to `take`; false when the host has gone. */
bool port_receive(void (*take)(const struct frame *));

/* channels.c */
extern struct channel *channels;
/* The one that has not finished; NULL: there is none. */
struct channel *channel_find(uint32_t id);
/* `status` as waitpid gives it. */
void channel_exited(struct channel *channel, int status);

/* start.c */
bool request_parse(struct request *request, unsigned char *payload, size_t length);
void request_free(struct request *request);
void refuse(struct channel *channel, uint32_t step, int error);
/* Runs it by fork and exec; 0, or REFUSED is sent and the channel finished. */
void start_command(struct channel *channel, const struct request *request);
/* Opens pipes and pty; `theirs` are the command's ends (-1: closed). */
int open_streams(struct channel *channel, const struct request *request, int theirs[3]);
void close_theirs(int theirs[3]);
void close_channel(struct channel *channel);

/*
 * preload.c. When it begins to serve, or has gone, commands that wait (`channel.waiting`) are for the
 * caller to begin.
 */
int preload_fd(void);
void preload_start(const struct frame *frame);
void preload_command(struct channel *channel, struct request *request, const void *payload,
		     size_t length);
void preload_receive(void);
bool preload_reaped(pid_t pid);
enum preload_state { PRELOAD_NONE, PRELOAD_LOADING, PRELOAD_SERVING };
enum preload_state preload_state(void);
bool preload_fits(const struct request *request);

/* serve.c */
_Noreturn void serve(void);

#endif
