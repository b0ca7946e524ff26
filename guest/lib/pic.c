/* SPDX-License-Identifier: MIT */
/* The two 8259A interrupt controllers (Intel 8259A data sheet). */
#include "guest.h"
#include "interrupts.h"
#include "private.h"

#define MASTER_DATA (PORT_PIC_MASTER + 1)
#define SLAVE_DATA (PORT_PIC_SLAVE + 1)

#define ICW1_CASCADED_WITH_ICW4 0x11
#define ICW3_MASTER_SLAVE_ON_IRQ2 0x04
#define ICW3_SLAVE_ID 0x02
#define ICW4_8086 0x01
#define OCW2_END_OF_INTERRUPT 0x20

/* The local APIC (SDM volume 3, chapter 11). */
#define CPUID_1_EDX_APIC (1u << 9)
#define MSR_APIC_BASE 0x1b
#define APIC_BASE_ENABLED (1u << 11)
#define APIC_BASE_ADDRESS 0xffffff000
#define APIC_SPURIOUS 0xf0
#define APIC_SPURIOUS_SOFTWARE_ENABLE (1u << 8)
#define APIC_LINT0 0x350
#define APIC_LVT_EXTERNAL_INTERRUPT 0x700
#define APIC_LVT_MASKED (1u << 16)

#define CASCADE_IRQ 2
#define MASTER_IRQS 8
#define SPURIOUS_MASTER 7
#define SPURIOUS_SLAVE 15

static uint16_t mask = 0xffff;

static void write_mask(void)
{
	outb(MASTER_DATA, (uint8_t)mask);
	outb(SLAVE_DATA, (uint8_t)(mask >> 8));
}

static volatile uint32_t *apic_register(uint32_t offset)
{
	return (volatile uint32_t *)((rdmsr(MSR_APIC_BASE) & APIC_BASE_ADDRESS) + offset);
}

/*
 * Where there is a local APIC, the 8259A's interrupts come through its LINT0 pin. Firmware opens
 * that ("virtual wire mode"), but not every machine that boots PVH images has firmware which does.
 * After a private launch KVM's reset state has it open, and the registers are out of reach.
 */
static void open_virtual_wire(void)
{
	if (launch_info())
		return;
	if (!(cpuid(1, 0).edx & CPUID_1_EDX_APIC) || !(rdmsr(MSR_APIC_BASE) & APIC_BASE_ENABLED))
		return;
	if (!(*apic_register(APIC_LINT0) & APIC_LVT_MASKED))
		return;
	*apic_register(APIC_SPURIOUS) |= APIC_SPURIOUS_SOFTWARE_ENABLE;
	*apic_register(APIC_LINT0) = APIC_LVT_EXTERNAL_INTERRUPT;
}

/*
 * A request that is gone before it is acknowledged is answered as the lowest priority's (data sheet,
 * "Edge and level triggered modes"): a device of the second controller was reset, say. The first one
 * believes that its input 2 is served.
 */
static void on_spurious(struct interrupt_frame *frame)
{
	if (frame->vector == IRQ_BASE + SPURIOUS_SLAVE)
		outb(PORT_PIC_MASTER, OCW2_END_OF_INTERRUPT);
}

void pic_init(void)
{
	open_virtual_wire();
	interrupt_handle(IRQ_BASE + SPURIOUS_MASTER, on_spurious);
	interrupt_handle(IRQ_BASE + SPURIOUS_SLAVE, on_spurious);
	outb(PORT_PIC_MASTER, ICW1_CASCADED_WITH_ICW4);
	outb(PORT_PIC_SLAVE, ICW1_CASCADED_WITH_ICW4);
	outb(MASTER_DATA, IRQ_BASE);
	outb(SLAVE_DATA, IRQ_BASE + MASTER_IRQS);
	outb(MASTER_DATA, ICW3_MASTER_SLAVE_ON_IRQ2);
	outb(SLAVE_DATA, ICW3_SLAVE_ID);
	outb(MASTER_DATA, ICW4_8086);
	outb(SLAVE_DATA, ICW4_8086);
	write_mask();
}

void pic_unmask(unsigned int irq)
{
	mask &= (uint16_t)~(1u << irq);
	if (irq >= MASTER_IRQS)
		mask &= (uint16_t)~(1u << CASCADE_IRQ);
	write_mask();
}

void pic_end_of_interrupt(unsigned int irq)
{
	if (irq >= MASTER_IRQS)
		outb(PORT_PIC_SLAVE, OCW2_END_OF_INTERRUPT);
	outb(PORT_PIC_MASTER, OCW2_END_OF_INTERRUPT);
}
