/* SPDX-License-Identifier: MIT */
/* What a launch that fails says on the first serial port: on a launch that succeeds, nothing. */
#ifndef FIRMWARE_CONSOLE_H
#define FIRMWARE_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

void say(const char *text);
void say_hexadecimal(uint64_t value);
void say_bytes(const uint8_t *bytes, size_t size);

#endif
