/* SPDX-License-Identifier: MIT */
/* The report of an exception that nobody expected (SDM volume 3, section 6.15). */
#include "guest.h"
#include "interrupts.h"

#define PAGE_FAULT 14
#define FAULT_PROTECTION 0x1
#define FAULT_WRITE 0x2
#define FAULT_USER 0x4
#define FAULT_RESERVED_BIT 0x8
#define FAULT_FETCH 0x10

static const char *exception_name(uint64_t vector)
{
	static const char *const names[EXCEPTIONS] = {
		[0] = "#DE divide error",
		[1] = "#DB debug exception",
		[2] = "NMI",
		[3] = "#BP breakpoint",
		[4] = "#OF overflow",
		[5] = "#BR bound range exceeded",
		[6] = "#UD invalid opcode",
		[7] = "#NM no FPU",
		[8] = "#DF double fault",
		[10] = "#TS invalid TSS",
		[11] = "#NP segment not present",
		[12] = "#SS stack fault",
		[13] = "#GP general protection",
		[14] = "#PF page fault",
		[16] = "#MF x87 error",
		[17] = "#AC alignment check",
		[18] = "#MC machine check",
		[19] = "#XM SIMD error",
		[20] = "#VE virtualization exception",
		[21] = "#CP control protection",
		[28] = "#HV hypervisor injection",
		[29] = "#VC VMM communication",
		[30] = "#SX security exception",
	};

	return vector < EXCEPTIONS && names[vector] ? names[vector] : "unexpected interrupt";
}

static const char *access_name(uint64_t error_code)
{
	if (error_code & FAULT_FETCH)
		return "instruction fetch from";
	return error_code & FAULT_WRITE ? "write to" : "read of";
}

static const char *cause_name(uint64_t error_code)
{
	if (error_code & FAULT_RESERVED_BIT)
		return "reserved bit set in the page tables";
	return error_code & FAULT_PROTECTION ? "not permitted" : "not present";
}

static void print_page_fault(uint64_t error_code)
{
	print("  %s cr2=%016lx by %s: %s\n", access_name(error_code), read_cr2(),
	      error_code & FAULT_USER ? "ring 3" : "the kernel", cause_name(error_code));
}

static void print_registers(const struct interrupt_frame *frame)
{
	print("  rip=%016lx cs=%04lx rflags=%08lx\n", frame->rip, frame->cs, frame->rflags);
	print("  rsp=%016lx ss=%04lx cr3=%016lx\n", frame->rsp, frame->ss, read_cr3());
	print("  rax=%016lx rbx=%016lx rcx=%016lx\n", frame->rax, frame->rbx, frame->rcx);
	print("  rdx=%016lx rsi=%016lx rdi=%016lx\n", frame->rdx, frame->rsi, frame->rdi);
	print("  rbp=%016lx  r8=%016lx  r9=%016lx\n", frame->rbp, frame->r8, frame->r9);
	print("  r10=%016lx r11=%016lx r12=%016lx\n", frame->r10, frame->r11, frame->r12);
	print("  r13=%016lx r14=%016lx r15=%016lx\n", frame->r13, frame->r14, frame->r15);
}

void exception_report(const struct interrupt_frame *frame)
{
	const char *name = exception_name(frame->vector);

	console_begin_line();
	print("EXCEPTION %lu: %s, error code 0x%lx\n", frame->vector, name, frame->error_code);
	if (frame->vector == PAGE_FAULT)
		print_page_fault(frame->error_code);
	print_registers(frame);
	panic("unexpected exception %lu (%s) at rip 0x%lx", frame->vector, name, frame->rip);
}
