/* SPDX-License-Identifier: MIT */
#include "console.h"

#include "instructions.h"
#include "protocol.h"

#define UART_LINE_STATUS (PORT_SERIAL + 5)
#define LINE_STATUS_ROOM 0x20

/* A UART that never has room is none; the line is then lost, but not the exit status. */
#define PATIENCE 100000

static void say_byte(char byte)
{
	int i = 0;

	while ((inb(UART_LINE_STATUS) & LINE_STATUS_ROOM) == 0)
		if (i++ == PATIENCE)
			return;
	outb(PORT_SERIAL, (uint8_t)byte);
}

void say(const char *text)
{
	while (*text != '\0')
		say_byte(*text++);
}

static void say_digit(uint64_t value)
{
	value &= 0xf;
	say_byte((char)(value < 10 ? '0' + value : 'a' + value - 10));
}

void say_hexadecimal(uint64_t value)
{
	int shift = 60;

	while (shift != 0 && value >> shift == 0)
		shift -= 4;
	say("0x");
	for (; shift >= 0; shift -= 4)
		say_digit(value >> shift);
}

void say_bytes(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		say_digit(bytes[i] >> 4);
		say_digit(bytes[i]);
	}
}
