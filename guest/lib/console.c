/* SPDX-License-Identifier: MIT */
/* The console: a 16550 UART, polled (TI PC16550D data sheet); and the debug console. */
#include "guest.h"

#define DATA (PORT_SERIAL + 0)
#define INTERRUPT_IDENTIFICATION (PORT_SERIAL + 2)
#define FIFO_CONTROL (PORT_SERIAL + 2)
#define LINE_STATUS (PORT_SERIAL + 5)
#define MODEM_STATUS (PORT_SERIAL + 6)

#define FIFO_ENABLE 0x01
#define FIFOS_ENABLED 0xc0
#define DATA_READY 0x01
#define TRANSMITTER_HOLDING_EMPTY 0x20
#define TRANSMITTER_EMPTY 0x40
#define CARRIER_DETECT 0x80

#define FIFO_SIZE 16

/* 0 until the first use; then how many bytes the UART takes in one go. */
static unsigned int fifo_size;
/* How many of these are left before the status must be read again: each read is an exit. */
static unsigned int fifo_room;
/* The last byte written did not end a line. */
static bool is_within_line;

/*
 * Halves the exits of writing. But turning the FIFOs on empties them (data sheet, 8.4), so a program
 * that may have input waiting must not: the first use of the console decides.
 */
static void enable_fifo(void)
{
	outb(FIFO_CONTROL, FIFO_ENABLE);
	fifo_size = 1;
	if ((inb(INTERRUPT_IDENTIFICATION) & FIFOS_ENABLED) == FIFOS_ENABLED)
		fifo_size = FIFO_SIZE;
}

static uint8_t read_status(void)
{
	uint8_t status = inb(LINE_STATUS);

	if (status & TRANSMITTER_HOLDING_EMPTY)
		fifo_room = fifo_size;
	return status;
}

void console_write(const char *bytes, size_t size)
{
	if (!fifo_size)
		enable_fifo();
	if (size)
		is_within_line = bytes[size - 1] != '\n';
	while (size) {
		while (!fifo_room && !(read_status() & TRANSMITTER_HOLDING_EMPTY))
			pause();

		unsigned int chunk = size < fifo_room ? (unsigned int)size : fifo_room;

		for (const char *end = bytes + chunk; bytes < end; bytes++)
			outb(DATA, (uint8_t)*bytes);
		size -= chunk;
		fifo_room -= chunk;
	}
}

void console_begin_line(void)
{
	if (is_within_line)
		console_write("\n", 1);
}

int console_read(void)
{
	if (!fifo_size)
		fifo_size = 1;
	return read_status() & DATA_READY ? inb(DATA) : -1;
}

bool console_hung_up(void)
{
	return !(inb(MODEM_STATUS) & CARRIER_DETECT);
}

void console_drain(void)
{
	while (!(inb(LINE_STATUS) & TRANSMITTER_EMPTY))
		pause();
}

void debug_print(const char *text)
{
	while (*text)
		outb(PORT_DEBUG_CONSOLE, (uint8_t)*text++);
}
