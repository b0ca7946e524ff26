/* SPDX-License-Identifier: MIT */
/* Leases of four ranges, taken and given back as held.c does it, without Python: ROUNDS times. */
#include "../pyvmm/hosts/kvm/conversion_calls.c"
#include "../pyvmm/hosts/kvm/conversions.c"
#include "../pyvmm/hosts/kvm/conversions_lock.c"
#include "../pyvmm/hosts/kvm/held.c"

#include <stdio.h>
#include <time.h>

#define RANGES 4
#define RAM (64UL << 20)

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    long rounds = argc == 2 ? atol(argv[1]) : 0;
    struct pyvmm_conversions *conversions = pyvmm_conversions_new(-1);
    if (rounds <= 0 || conversions == NULL ||
        pyvmm_held_add_region(conversions, 0, 0, RAM, true) != 0)
        return 2;
    double started = now();
    for (long i = 0; i < rounds; i++) {
        /* As benchmarks/leases.py has them: scattered buffers of a frame's size. */
        uint64_t rows[2 * RANGES];
        for (uint64_t j = 0; j < RANGES; j++) {
            rows[2 * j] = 64 + j * PAGE_SIZE;
            rows[2 * j + 1] = 1500;
        }
        int64_t number = pyvmm_held_lease(conversions, rows, RANGES, true);
        if (number <= 0)
            return 1;
        pyvmm_held_release(conversions, PYVMM_HELD_LEASE, number);
    }
    double seconds = now() - started;
    pyvmm_conversions_free(conversions);
    printf("{\"lease_us\": %.9f}\n", seconds / (double)rounds * 1e6);
    return 0;
}
