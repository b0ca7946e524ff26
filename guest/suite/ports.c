/* SPDX-License-Identifier: MIT */
/* What is behind ports: fw_cfg, the test device, port 0x61, the clock's memory. */
#include "suite.h"

#define PORT_CMOS_INDEX 0x70
#define PORT_CMOS_DATA 0x71
#define CMOS_FREE 0x51 /* nobody's */
#define PORT_FAST_RESET 0x92
#define PORT_PM_TIMER 0x608
#define PORT_DEBUG_EXIT 0x501

#define DMA_ERROR 0x01
#define DMA_READ 0x02
#define DMA_SKIP 0x04
#define DMA_SELECT 0x08
#define DMA_WRITE 0x10
#define NO_MEMORY 0xfd000000 /* in the hole */

struct __attribute__((packed)) dma {
	uint32_t control, length;
	uint64_t address;
};

static volatile struct dma dma __attribute__((aligned(16)));
static char buffer[64];

static uint32_t swapped(uint32_t value)
{
	return __builtin_bswap32(value);
}

/* The control field that the transfer leaves. */
static uint32_t transfer(uint32_t control, uint32_t length, uint64_t address)
{
	dma.control = swapped(control);
	dma.length = swapped(length);
	dma.address = __builtin_bswap64(address);
	outl(PORT_FW_CFG_DMA, 0);
	outl(PORT_FW_CFG_DMA + 4, swapped((uint32_t)(uint64_t)&dma));
	return swapped(dma.control);
}

static bool same(const char *one, const char *other, size_t size)
{
	for (size_t at = 0; at < size; at++)
		if (one[at] != other[at])
			return false;
	return true;
}

static void fw_cfg(void)
{
	check("fw_cfg: signature", fw_cfg_number(FW_CFG_SIGNATURE, 4) == 0x554d4551);
	check("fw_cfg: zeroes behind the end", fw_cfg_number(FW_CFG_SIGNATURE, 6) == 0x554d4551);
	check("fw_cfg: interface", (fw_cfg_number(FW_CFG_ID, 4) & 3) == 3);
	check("fw_cfg: nothing", fw_cfg_number(0x3ff0, 4) == 0);
	check("fw_cfg: the write channel's bit", fw_cfg_number(0x4000, 4) == 0x554d4551);
	print("RAM: %lu bytes, CPUs: %lu\n", fw_cfg_number(FW_CFG_RAM_SIZE, 8),
	      fw_cfg_number(FW_CFG_CPUS, 2));
	outw(PORT_FW_CFG, FW_CFG_SIGNATURE);
	outb(PORT_FW_CFG + 1, 0x55);
	check("fw_cfg: writes are ignored", inb(PORT_FW_CFG) == 'Q' && inb(PORT_FW_CFG + 1) == 'E');
	check("fw_cfg: wide reads are nothing", inw(PORT_FW_CFG) == 0 && inb(PORT_FW_CFG) == 'M');
}

static void fw_cfg_dma(void)
{
	uint32_t signature = FW_CFG_SIGNATURE << 16 | DMA_SELECT;

	check("DMA: signature", inl(PORT_FW_CFG_DMA) == 0x554d4551 &&
				      inl(PORT_FW_CFG_DMA + 4) == 0x47464320);
	for (size_t at = 0; at < sizeof(buffer); at++)
		buffer[at] = '-';
	check("DMA: read", transfer(signature | DMA_READ, 4, (uint64_t)buffer) == 0 &&
				 same(buffer, "QEMU----", 8));
	check("DMA: skip", transfer(signature | DMA_SKIP, 2, 0) == 0 &&
				 transfer(DMA_READ, 4, (uint64_t)buffer + 8) == 0 &&
				 same(buffer, "QEMU----MU\0\0----", 16));
	check("DMA: no write", transfer(signature | DMA_WRITE, 4, (uint64_t)buffer) == DMA_ERROR);
	check("DMA: nothing there",
	      transfer(signature | DMA_READ, 4, NO_MEMORY) == DMA_ERROR);
	check("DMA: beyond all addresses",
	      transfer(signature | DMA_READ, 4, 0x000ffffffffffff0) == DMA_ERROR);
	outl(PORT_FW_CFG_DMA + 4, swapped(NO_MEMORY));
	check("DMA: no descriptor", transfer(signature, 0, 0) == 0);
}

/* Big endian fields: the count, then size, selector, two bytes and a name of 56 for each file. */
static void fw_cfg_files(void)
{
	struct __attribute__((packed)) {
		uint32_t size;
		uint16_t key, reserved;
		char name[56];
	} file;
	uint32_t count;
	bool found = false;

	transfer(FW_CFG_FILES << 16 | DMA_SELECT | DMA_READ, sizeof(count), (uint64_t)&count);
	for (count = swapped(count); count; count--) {
		transfer(DMA_READ, sizeof(file), (uint64_t)&file);
		found = found || same(file.name, "etc/e820", sizeof("etc/e820"));
	}
	check("fw_cfg: etc/e820", found);
}

static void test_device(void)
{
	static const char text[] = "abcdefgh";
	const char *from = text;
	char *to = buffer;
	uint64_t count = 8;

	outl(PORT_TEST_BANK, 0x44332211);
	outb(PORT_TEST_BANK + 1, 0xaa);
	check("test device: bank", inl(PORT_TEST_BANK) == 0x4433aa11);
	outw(PORT_TEST_BANK + 2, 0xccbb);
	check("test device: words", inw(PORT_TEST_BANK) == 0xaa11 && inb(PORT_TEST_BANK + 3) == 0xcc);
	__asm__ volatile("cld; rep outsb"
			 : "+S"(from), "+c"(count)
			 : "d"(PORT_TEST_BANK)
			 : "memory");
	check("test device: strings out", inb(PORT_TEST_BANK) == 'h' && !count && from == text + 8);
	count = 3;
	__asm__ volatile("cld; rep insb"
			 : "+D"(to), "+c"(count)
			 : "d"(PORT_TEST_BANK)
			 : "memory");
	check("test device: strings in", same(buffer, "hhh", 3) && to == buffer + 3);
	buffer[0] = 'x';
	outl(PORT_TEST_FLUSH, (uint32_t)(uint64_t)buffer);
	check("test device: flush", buffer[0] == 'x');
	TEST_WINDOW[0] = 0x11;
	*(volatile uint32_t *)(TEST_WINDOW + 2) = 0x55443322;
	check("test device: window", TEST_WINDOW[0] == 0x11 && TEST_WINDOW[3] == 0x33 &&
					     *(volatile uint16_t *)(TEST_WINDOW + 4) == 0x5544);
}

static void others(void)
{
	uint32_t before = inl(PORT_PM_TIMER);

	wait_microseconds(1000);

	uint32_t ticks = (inl(PORT_PM_TIMER) - before) & 0xffffff;

	check("port 0x61: a count ends", true);
	check("PM timer: at least a millisecond", ticks >= 3500);
	outb(PORT_CMOS_INDEX, CMOS_FREE);
	outb(PORT_CMOS_DATA, 0x5a);
	outb(PORT_CMOS_INDEX, 0x0d);
	check("CMOS: valid", inb(PORT_CMOS_DATA) == 0x80);
	outb(PORT_CMOS_INDEX, CMOS_FREE);
	check("CMOS: memory", inb(PORT_CMOS_DATA) == 0x5a);
	outb(PORT_FAST_RESET, 2);
	check("port 0x92: A20", (inb(PORT_FAST_RESET) & 3) == 2);
}

int guest_main(void)
{
	fw_cfg();
	fw_cfg_dma();
	fw_cfg_files();
	test_device();
	others();
	return suite_end();
}
