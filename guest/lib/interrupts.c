/* SPDX-License-Identifier: MIT */
/* GDT's task, IDT and dispatch (SDM volume 3, chapters 6 and 7). */
#include "guest.h"
#include "interrupts.h"
#include "segments.h"

#define GATE_INTERRUPT (0x8eUL << 40)
#define GATE_OPEN_TO_RING3 (0x60UL << 40)
#define GATE_STACK(number) ((uint64_t)(number) << 32)
#define TASK_AVAILABLE 0x89
#define DOUBLE_FAULT 8
#define DOUBLE_FAULT_STACK 1

/* The second word is the upper half of the handler's address: zero, as the image is below 4 GiB. */
struct gate {
	uint64_t low, high;
};

struct __attribute__((packed)) task_state {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t interrupt_stack[7];
	uint64_t reserved2;
	uint16_t reserved3, io_permissions;
};

struct __attribute__((packed)) table_pointer {
	uint16_t limit;
	uint64_t base;
};

extern uint64_t gdt[];
extern char interrupt_stubs[];

static struct gate idt[INTERRUPT_STUBS];
static interrupt_handler handlers[INTERRUPT_STUBS];
static struct task_state task;
/* #DF may well mean that the stack is gone. */
static char double_fault_stack[4096] __attribute__((aligned(16)));

static void set_gate(unsigned int vector, uint64_t flags)
{
	uint64_t offset = (uint64_t)interrupt_stubs + 16 * vector;

	idt[vector].low = (offset & 0xffff) | KERNEL_CS << 16 | flags | (offset >> 16) << 48;
}

static void load_task(void)
{
	uint64_t base = (uint64_t)&task;
	uint64_t limit = sizeof(task) - 1;

	task.io_permissions = sizeof(task);
	task.interrupt_stack[DOUBLE_FAULT_STACK - 1] =
		(uint64_t)(double_fault_stack + sizeof(double_fault_stack));
	gdt[TASK / 8] = limit | (base & 0xffffff) << 16 | (uint64_t)TASK_AVAILABLE << 40 |
			(base >> 24 & 0xff) << 56;
	gdt[TASK / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");
}

void interrupts_init(void)
{
	for (unsigned int vector = 0; vector < EXCEPTIONS; vector++)
		set_gate(vector, GATE_INTERRUPT);
	set_gate(DOUBLE_FAULT, GATE_INTERRUPT | GATE_STACK(DOUBLE_FAULT_STACK));
	load_task();
	interrupts_load();
}

void interrupts_load(void)
{
	const struct table_pointer pointer = {sizeof(idt) - 1, (uint64_t)idt};

	__asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

void interrupt_handle(unsigned int vector, interrupt_handler handler)
{
	handlers[vector] = handler;
	if (vector == BREAKPOINT)
		set_gate(vector, GATE_INTERRUPT | GATE_OPEN_TO_RING3);
	else if (vector >= EXCEPTIONS)
		set_gate(vector, GATE_INTERRUPT);
}

void interrupt_stack_set(uint64_t rsp)
{
	task.rsp[0] = rsp;
}

void interrupt_dispatch(struct interrupt_frame *frame)
{
	interrupt_handler handler = handlers[frame->vector];

	if (handler)
		handler(frame);
	else
		exception_report(frame);
}
