/* SPDX-License-Identifier: MIT */
/*
 * interrupts WHAT CODE COUNT: the guest CODE (hexadecimal, see interrupts.py) on a thread of its
 * own; this one makes it ring a doorbell and waits for the eventfd (WHAT doorbell), or sends it a
 * message and waits for its handler (WHAT message), COUNT times. Prints the median of the times
 * from the store that the guest waits for, or the signal, to the end of the wait, in microseconds.
 */
#include "baseline.h"

#include <pthread.h>
#include <sys/eventfd.h>

#define KVM_SET_GSI_ROUTING 0x4008ae6aUL
#define KVM_IRQFD 0x4020ae76UL
#define KVM_IOEVENTFD 0x4040ae79UL
#define KVM_GET_LAPIC 0x8400ae8eUL
#define KVM_SET_LAPIC 0x4400ae8fUL
#define IOEVENTFD_PIO 2U
#define ROUTING_MSI 2U

#define PORT 0x61
#define GSI 24
#define VECTOR 0x50
#define HANDLER 0x7c20
#define MAILBOX 0x6000

static struct guest guest;

static void *run(void *unused)
{
    ioctl(guest.vcpu, KVM_RUN, 0UL); /* for ever: the process ends before it does */
    fprintf(stderr, "the guest stopped for reason %u\n", guest.run->exit_reason);
    exit(1);
    return unused;
}

static int compare(const void *one, const void *two)
{
    double a = *(const double *)one, b = *(const double *)two;
    return (a > b) - (a < b);
}

static int make_doorbell(void)
{
    int bell = checked(eventfd(0, EFD_CLOEXEC), "make an eventfd");
    struct kvm_ioeventfd place = {.addr = PORT, .len = 1, .fd = bell, .flags = IOEVENTFD_PIO};
    checked(ioctl(guest.vm, KVM_IOEVENTFD, &place), "assign an ioeventfd");
    return bell;
}

static int make_message(void)
{
    int signal = checked(eventfd(0, EFD_CLOEXEC), "make an eventfd");
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entry;
    } table = {
        .head = {.nr = 1},
        .entry = {.gsi = GSI, .type = ROUTING_MSI, .u.msi = {0xfee00000, 0, VECTOR, 0}},
    };
    checked(ioctl(guest.vm, KVM_SET_GSI_ROUTING, &table), "set the routes");
    struct kvm_irqfd irqfd = {.fd = (uint32_t)signal, .gsi = GSI};
    checked(ioctl(guest.vm, KVM_IRQFD, &irqfd), "assign an irqfd");
    return signal;
}

/* The APIC on, the vector at its handler, and a data segment that reaches the APIC. */
static void let_it_take_messages(void)
{
    struct kvm_lapic_state lapic;
    checked(ioctl(guest.vcpu, KVM_GET_LAPIC, &lapic), "get the local APIC");
    lapic.regs[0xf0] = 0xff;
    lapic.regs[0xf1] |= 1;
    checked(ioctl(guest.vcpu, KVM_SET_LAPIC, &lapic), "set the local APIC");
    struct kvm_sregs sregs;
    checked(ioctl(guest.vcpu, KVM_GET_SREGS, &sregs), "get special registers");
    sregs.es.limit = 0xffffffff;
    sregs.es.g = 1;
    checked(ioctl(guest.vcpu, KVM_SET_SREGS, &sregs), "set special registers");
    uint16_t vector[2] = {HANDLER, 0};
    memcpy(guest.ram + 4 * (size_t)VECTOR, vector, sizeof(vector));
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: interrupts doorbell|message CODE COUNT\n");
        return 2;
    }
    bool doorbell = strcmp(argv[1], "doorbell") == 0;
    uint8_t code[64];
    size_t size = 0;
    for (const char *at = argv[2]; sscanf(at, "%2hhx", &code[size]) == 1; at += 2)
        if (++size == sizeof(code))
            break;
    size_t count = (size_t)number(argv[3]);
    double *times = calloc(count, sizeof(*times));
    if (times == NULL)
        give_up("get memory");
    guest.irqchip = true;
    open_guest(&guest, 256UL << 20, code, size);
    if (!doorbell)
        let_it_take_messages();
    int event = doorbell ? make_doorbell() : make_message();
    volatile uint8_t *mailbox = guest.ram + MAILBOX;
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, NULL) != 0)
        give_up("start a thread");

    uint64_t one = 1, rung;
    for (size_t i = 0; i < count; i++) {
        uint8_t before = *mailbox;
        double started = seconds_now();
        if (doorbell) {
            *mailbox = (uint8_t)(before + 1);
            if (read(event, &rung, sizeof(rung)) != sizeof(rung))
                give_up("wait for the doorbell");
        } else {
            if (write(event, &one, sizeof(one)) != sizeof(one))
                give_up("signal the message");
            while (*mailbox == before)
                continue;
        }
        times[i] = seconds_now() - started;
    }
    qsort(times, count, sizeof(*times), compare);
    printf("{\"median_us\": %.3f}\n", times[count / 2] * 1e6);
    return 0;
}
