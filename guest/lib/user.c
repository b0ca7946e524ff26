/* SPDX-License-Identifier: MIT */
/* Ring 3: its memory, and what it can ask of the kernel. */
#include "guest.h"
#include "interrupts.h"
#include "user.h"

uint64_t user_enter(uint64_t first, uint64_t second, uint64_t rip, uint64_t rsp);
_Noreturn void user_leave(uint64_t value);

extern char user_start[], user_end[], user_return[], user_kernel_stack_top[];

static uint64_t user_stack[1024] __attribute__((section(".bss.user"), aligned(16)));

static uint64_t user_address(const void *linked_at)
{
	return USER_BASE + (uint64_t)linked_at;
}

static void print_for_user(uint64_t text, uint64_t size)
{
	uint64_t end = user_address(user_end);

	if (text < user_address(user_start) || text > end || size > end - text)
		panic("ring 3 asks to print %lu bytes at 0x%lx, which are not its own", size, text);
	console_write((const char *)text, size);
}

static void on_user_call(struct interrupt_frame *frame)
{
	if ((frame->cs & 3) != 3)
		exception_report(frame);
	switch (frame->rax) {
	case USER_CALL_RETURN:
		user_leave(frame->rdi);
	case USER_CALL_PRINT:
		print_for_user(frame->rdi, frame->rsi);
		break;
	default:
		panic("ring 3 makes call %lu, which there is not", frame->rax);
	}
}

void user_map(const struct span *span)
{
	map_range(USER_BASE + span->start, span->start, span->end - span->start,
		  MAP_WRITABLE | MAP_USER);
}

void user_init(size_t extra_pages)
{
	const struct span program = {(uint64_t)user_start, (uint64_t)user_end};

	pages_reserve(map_tables_needed(&program) + extra_pages);
	user_map(&program);
	interrupt_stack_set((uint64_t)user_kernel_stack_top);
	interrupt_handle(BREAKPOINT, on_user_call);
}

uint64_t user_run(user_function function, uint64_t first, uint64_t second)
{
	uint64_t *top = user_stack + sizeof(user_stack) / sizeof(*user_stack) - 1;

	*top = user_address(user_return);
	return user_enter(first, second, user_address((const void *)function), user_address(top));
}
