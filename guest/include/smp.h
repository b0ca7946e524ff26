/* SPDX-License-Identifier: MIT */
/*
 * Other CPUs. There are some after a private launch only, where they wait for work. The library is
 * CPU 0's: the others may use single instructions, conversions and panic, but must not print.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include <stdbool.h>
#include <stdint.h>

typedef void (*cpu_function)(unsigned int cpu, void *argument);

/* At least 1: CPU 0, on which guest_main runs. */
unsigned int cpu_count(void);
/* CPU `cpu`, from 1 on, calls `function`; panics when it has not returned from an earlier one. */
void cpu_start(unsigned int cpu, cpu_function function, void *argument);
/* Whether it has not returned yet. */
bool cpu_is_busy(unsigned int cpu);
/* Until it has. */
void cpu_join(unsigned int cpu);

#endif
