/* SPDX-License-Identifier: MIT */
/* Exceptions, interrupts of devices, and the timer. The first lines are for the assembler too. */
#ifndef GUEST_INTERRUPTS_H
#define GUEST_INTERRUPTS_H

#define EXCEPTIONS 32
#define IRQ_BASE 32
#define IRQS 16
#define INTERRUPT_STUBS (EXCEPTIONS + IRQS)
#define BREAKPOINT 3

#ifndef __ASSEMBLER__

#include <stdint.h>

/* In the order in which entry/interrupts.S and the CPU push it, upside down. */
struct interrupt_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error_code;
	uint64_t rip, cs, rflags, rsp, ss;
};

typedef void (*interrupt_handler)(struct interrupt_frame *frame);

/* GDT, TSS and an IDT in which every exception is reported. Interrupts stay off. */
void interrupts_init(void);
/* Another CPU takes the IDT over, but no TSS: there a double fault is a triple fault. */
void interrupts_load(void);
/* From here on, `vector` (an exception's, or a device's IRQ_BASE + n) is `handler`'s. */
void interrupt_handle(unsigned int vector, interrupt_handler handler);
/* The stack on which an interrupt of ring 3 arrives. */
void interrupt_stack_set(uint64_t rsp);
/* The report of an unexpected exception, and panic. */
_Noreturn void exception_report(const struct interrupt_frame *frame);
void interrupt_dispatch(struct interrupt_frame *frame);

/* The two 8259A: moves their vectors to IRQ_BASE and masks all. */
void pic_init(void);
void pic_unmask(unsigned int irq);
void pic_end_of_interrupt(unsigned int irq);

/* The 8254's channel 0 interrupts `hz` times a second from here on, on IRQ 0. */
void timer_start(unsigned int hz);
/* How often it has. */
uint64_t timer_ticks(void);

#endif
#endif
