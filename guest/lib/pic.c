/* The two 8259A interrupt controllers (Intel 8259A data sheet). */
#include "guest.h"
#include "interrupts.h"

#define MASTER_DATA (PORT_PIC_MASTER + 1)
#define SLAVE_DATA (PORT_PIC_SLAVE + 1)

#define ICW1_CASCADED_WITH_ICW4 0x11
#define ICW3_MASTER_SLAVE_ON_IRQ2 0x04
#define ICW3_SLAVE_ID 0x02
#define ICW4_8086 0x01
#define OCW2_END_OF_INTERRUPT 0x20

#define CASCADE_IRQ 2
#define MASTER_IRQS 8

static uint16_t mask = 0xffff;

static void write_mask(void)
{
	outb(MASTER_DATA, (uint8_t)mask);
	outb(SLAVE_DATA, (uint8_t)(mask >> 8));
}

void pic_init(void)
{
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
