/* SPDX-License-Identifier: MIT */
/*
 * exits PORT COUNT: a loop around KVM_RUN. The guest writes to PORT for ever; prints how long COUNT
 * exits took, in seconds of wall time and of the process's user and system time.
 */
#include "baseline.h"

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: exits PORT COUNT\n");
        return 2;
    }
    uint16_t port = (uint16_t)number(argv[1]);
    unsigned long long count = number(argv[2]);
    /* xor ax, ax; mov dx, PORT; l: out dx, al; jmp l */
    uint8_t code[] = {0x31, 0xc0, 0xba, (uint8_t)port, (uint8_t)(port >> 8), 0xee, 0xeb, 0xfd};
    struct guest guest = {0};
    open_guest(&guest, 256UL << 20, code, sizeof(code));

    for (int warm_up = 0; warm_up < 1000; warm_up++)
        run_to_out(&guest, port);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    double started = seconds_now();
    unsigned long long sum = 0;
    for (unsigned long long i = 0; i < count; i++)
        sum += run_to_out(&guest, port);
    double ended = seconds_now();
    getrusage(RUSAGE_SELF, &after);
    close_guest(&guest);
    if (sum != 0) {
        fprintf(stderr, "the guest wrote something else than zeroes\n");
        return 1;
    }
    printf("{\"seconds\": %.9f, \"user\": %.9f, \"system\": %.9f}\n", ended - started,
           seconds_of(after.ru_utime) - seconds_of(before.ru_utime),
           seconds_of(after.ru_stime) - seconds_of(before.ru_stime));
    return 0;
}
