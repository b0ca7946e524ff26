/* SPDX-License-Identifier: MIT */
/* CPUs other than the first: from the firmware's mailboxes to a loop of our own. */
#include "smp.h"
#include "guest.h"
#include "interrupts.h"
#include "private.h"

#define STACK_BYTES (4 * PAGE_SIZE)

/* At the start of its stack's memory. The stub reads the first field (lib/smp_entry.S). */
struct cpu {
	uint64_t stack_top;
	void *argument;
	cpu_function function; /* set last, cleared when it returns */
};

struct mailbox {
	uint64_t entry;
	uint64_t argument;
};

_Static_assert(sizeof(struct mailbox) == MAILBOX_BYTES, "a mailbox has another size");
_Static_assert(offsetof(struct mailbox, argument) == MAILBOX_ARGUMENT, "argument is elsewhere");

extern char smp_entry[];
_Noreturn void smp_start(struct cpu *self, uint64_t number);

static struct cpu *cpus[BOOT_CPUS_MAX];

unsigned int cpu_count(void)
{
	return launch_info() ? launch_info()->cpus : 1;
}

void smp_start(struct cpu *self, uint64_t number)
{
	interrupts_load();
	for (;;) {
		cpu_function function;

		while (!(function = __atomic_load_n(&self->function, __ATOMIC_ACQUIRE)))
			pause();
		function((unsigned int)number, self->argument);
		__atomic_store_n(&self->function, NULL, __ATOMIC_RELEASE);
	}
}

/* It has been waiting in the firmware's loop since the launch. */
static struct cpu *fetch(unsigned int number)
{
	struct mailbox *mailbox = (struct mailbox *)LAUNCH_MAILBOX + number;
	struct span span;

	if (!memory_take(STACK_BYTES, PAGE_SIZE, &span))
		panic("no room for the stack of CPU %u", number);

	struct cpu *cpu = (struct cpu *)span.start;

	*cpu = (struct cpu){.stack_top = span.end};
	mailbox->argument = (uint64_t)cpu;
	__atomic_store_n(&mailbox->entry, (uint64_t)smp_entry, __ATOMIC_RELEASE);
	return cpu;
}

void cpu_start(unsigned int cpu, cpu_function function, void *argument)
{
	if (!cpu || cpu >= cpu_count())
		panic("CPU %u of %u cannot be started", cpu, cpu_count());
	if (!cpus[cpu])
		cpus[cpu] = fetch(cpu);
	assert(!cpu_is_busy(cpu));
	cpus[cpu]->argument = argument;
	__atomic_store_n(&cpus[cpu]->function, function, __ATOMIC_RELEASE);
}

bool cpu_is_busy(unsigned int cpu)
{
	return cpus[cpu] && __atomic_load_n(&cpus[cpu]->function, __ATOMIC_ACQUIRE);
}

void cpu_join(unsigned int cpu)
{
	while (cpu_is_busy(cpu))
		pause();
}
