/* The console: a 16550 UART, polled (TI PC16550D data sheet); and the debug console. */
#include "guest.h"

#define DATA (PORT_SERIAL + 0)
#define INTERRUPT_IDENTIFICATION (PORT_SERIAL + 2)
#define FIFO_CONTROL (PORT_SERIAL + 2)
#define LINE_STATUS (PORT_SERIAL + 5)
#define MODEM_STATUS (PORT_SERIAL + 6)

#define FIFO_ENABLE_AND_CLEAR 0x07
#define FIFOS_ENABLED 0xc0
#define DATA_READY 0x01
#define TRANSMITTER_HOLDING_EMPTY 0x20
#define TRANSMITTER_EMPTY 0x40
#define CARRIER_DETECT 0x80

#define FIFO_SIZE 16

static unsigned int fifo_size = 1;
/* How many bytes the UART takes before its status must be read again: each read is an exit. */
static unsigned int fifo_room;

void console_init(void)
{
	outb(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
	if ((inb(INTERRUPT_IDENTIFICATION) & FIFOS_ENABLED) == FIFOS_ENABLED)
		fifo_size = FIFO_SIZE;
}

static void wait_for_status(uint8_t bit)
{
	while (!(inb(LINE_STATUS) & bit))
		pause();
}

void console_write(const char *bytes, size_t size)
{
	for (; size; size--) {
		if (!fifo_room) {
			wait_for_status(TRANSMITTER_HOLDING_EMPTY);
			fifo_room = fifo_size;
		}
		fifo_room--;
		outb(DATA, (uint8_t)*bytes++);
	}
}

int console_read(void)
{
	return inb(LINE_STATUS) & DATA_READY ? inb(DATA) : -1;
}

bool console_hung_up(void)
{
	return !(inb(MODEM_STATUS) & CARRIER_DETECT);
}

void console_drain(void)
{
	wait_for_status(TRANSMITTER_EMPTY);
}

void debug_print(const char *text)
{
	while (*text)
		outb(PORT_DEBUG_CONSOLE, (uint8_t)*text++);
}
