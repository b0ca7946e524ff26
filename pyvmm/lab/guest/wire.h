/* SPDX-License-Identifier: MIT */
/*
 * What the lab's two sides say to each other, as plain `#define NAME value` lines: tests/lab
 * compares them with pyvmm/lab/protocol.py, which documents each frame.
 *
 * A frame is a header and a payload. The header, little-endian: type (u8), stream (u8), zero (u16),
 * channel (u32), length of the payload in bytes (u32). A channel is one command.
 */
#ifndef PYVMM_LAB_WIRE_H
#define PYVMM_LAB_WIRE_H

#define WIRE_VERSION 1
#define HEADER_SIZE 12
/* The largest payload: of a DATA frame, and of any frame (START carries a whole environment). */
#define DATA_MAX 32768
#define PAYLOAD_MAX 8388608
/* How many bytes of a stream may be on their way before the reader grants more. */
#define WINDOW 262144

#define FRAME_HELLO 1
#define FRAME_START 2
#define FRAME_STARTED 3
#define FRAME_REFUSED 4
#define FRAME_DATA 5
#define FRAME_CLOSE 6
#define FRAME_CREDIT 7
#define FRAME_SIGNAL 8
#define FRAME_RESIZE 9
#define FRAME_HANGUP 10
#define FRAME_EXITED 11
#define FRAME_PRELOAD 12
#define FRAME_PRELOADED 13
#define FRAME_FORGET 14

#define STREAM_INPUT 0
#define STREAM_OUTPUT 1
#define STREAM_ERROR 2
#define STREAM_TERMINAL 3

/* START's flags: which of the three descriptors is the terminal, which is not open at all. */
#define START_TERMINAL_INPUT 0x01
#define START_TERMINAL_OUTPUT 0x02
#define START_TERMINAL_ERROR 0x04
#define START_CLOSED_INPUT 0x08
#define START_CLOSED_OUTPUT 0x10
#define START_CLOSED_ERROR 0x20
/* The process with pyvmm preloaded may fork instead of a new interpreter being started. */
#define START_MAY_FORK 0x40
/* The bytes before START's strings: flags, mode mask, window size (4 x u16), two counts. */
#define START_FIXED_SIZE 24

/* HELLO's facts about the kernel. */
#define FACT_KVM 0x1
#define FACT_PRIVATE_VM 0x2
#define FACT_MEMORY_ATTRIBUTES 0x4
#define FACT_SCRATCH_OVERLAY 0x8

/* REFUSED's step: what did not work. */
#define STEP_REQUEST 1
#define STEP_DIRECTORY 2
#define STEP_EXECUTE 3
#define STEP_RESOURCES 4

#define PRELOAD_GONE 0
#define PRELOAD_READY 1

#endif
