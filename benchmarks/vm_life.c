/* SPDX-License-Identifier: MIT */
/*
 * vm_life LIVES: from opening /dev/kvm to the last close, LIVES times; prints how long all of them
 * took together. One life: a VM with 256 MiB, a vCPU with the host's CPUID, one exit, tear down.
 */
#include "baseline.h"

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: vm_life LIVES\n");
        return 2;
    }
    unsigned long long lives = number(argv[1]);
    /* mov al, 42; out 0xf4, al; hlt */
    static const uint8_t code[] = {0xb0, 0x2a, 0xe6, 0xf4, 0xf4};
    double started = 0;
    /* The first life is the warm-up. */
    for (unsigned long long i = 0; i <= lives; i++) {
        if (i == 1)
            started = seconds_now();
        struct guest guest = {0};
        open_guest(&guest, 256UL << 20, code, sizeof(code));
        if (run_to_out(&guest, 0xf4) != 42) {
            fprintf(stderr, "the guest wrote something else than 42\n");
            return 1;
        }
        close_guest(&guest);
    }
    printf("{\"seconds\": %.9f}\n", seconds_now() - started);
    return 0;
}
