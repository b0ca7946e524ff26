/* SPDX-License-Identifier: MIT */
/*
 * saved_state ROUNDS [MSR...]: all the state of a vCPU with in-kernel controllers, its VM's clock,
 * controllers and timer: read and set again, ROUNDS times, by the ioctls that pyvmm issues in their
 * order. MSR: the registers that the vCPU has. Prints how long a saving and a restoring take.
 */
#include "baseline.h"

#define KVM_CREATE_IRQCHIP 0xae60UL
#define KVM_CREATE_PIT2 0x4040ae77UL
#define KVM_GET_IRQCHIP 0xc208ae62UL
#define KVM_SET_IRQCHIP 0x8208ae63UL
#define KVM_SET_CLOCK 0x4030ae7bUL
#define KVM_GET_CLOCK 0x8030ae7cUL
#define KVM_GET_PIT2 0x8070ae9fUL
#define KVM_SET_PIT2 0x4070aea0UL
#define KVM_GET_REGS 0x8090ae81UL
#define KVM_GET_MSRS 0xc008ae88UL
#define KVM_SET_MSRS 0x4008ae89UL
#define KVM_GET_LAPIC 0x8400ae8eUL
#define KVM_SET_LAPIC 0x4400ae8fUL
#define KVM_GET_MP_STATE 0x8004ae98UL
#define KVM_SET_MP_STATE 0x4004ae99UL
#define KVM_GET_VCPU_EVENTS 0x8040ae9fUL
#define KVM_SET_VCPU_EVENTS 0x4040aea0UL
#define KVM_GET_DEBUGREGS 0x8080aea1UL
#define KVM_SET_DEBUGREGS 0x4080aea2UL
#define KVM_GET_TSC_KHZ 0xaea3UL
#define KVM_GET_XSAVE 0x9000aea4UL
#define KVM_SET_XSAVE 0x5000aea5UL
#define KVM_GET_XSAVE2 0x9000aecfUL
#define KVM_GET_XCRS 0x8188aea6UL
#define KVM_SET_XCRS 0x4188aea7UL
#define KVM_GET_SREGS2 0x8140aeccUL
#define KVM_SET_SREGS2 0x4140aecdUL
#define KVM_CAP_SREGS2 200
#define KVM_CAP_XSAVE2 208
#define LEGACY_XSAVE 4096
#define CHIPS 3

struct saved {
    struct kvm_mp_state mp_state;
    struct kvm_vcpu_events events;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_lapic_state lapic;
    struct kvm_clock_data clock;
    struct kvm_irqchip chips[CHIPS];
    struct kvm_pit_state2 pit;
    int tsc_khz;
    void *xsave;
    struct kvm_msrs *msrs;
};

static unsigned long get_sregs = KVM_GET_SREGS;
static unsigned long set_sregs = KVM_SET_SREGS;
static unsigned long get_xsave = KVM_GET_XSAVE;

static void save(const struct guest *guest, struct saved *saved)
{
    int vcpu = guest->vcpu;
    checked(ioctl(vcpu, KVM_GET_MP_STATE, &saved->mp_state), "get what it waits for");
    saved->tsc_khz = checked(ioctl(vcpu, KVM_GET_TSC_KHZ, 0UL), "get the TSC's rate");
    checked(ioctl(vcpu, KVM_GET_VCPU_EVENTS, &saved->events), "get events");
    checked(ioctl(vcpu, KVM_GET_REGS, &saved->regs), "get registers");
    checked(ioctl(vcpu, get_sregs, &saved->sregs), "get special registers");
    checked(ioctl(vcpu, get_xsave, saved->xsave), "get the XSAVE area");
    checked(ioctl(vcpu, KVM_GET_XCRS, &saved->xcrs), "get XCRs");
    checked(ioctl(vcpu, KVM_GET_DEBUGREGS, &saved->debugregs), "get debug registers");
    checked(ioctl(vcpu, KVM_GET_MSRS, saved->msrs), "get MSRs");
    checked(ioctl(vcpu, KVM_GET_LAPIC, &saved->lapic), "get the local APIC");
    checked(ioctl(guest->vm, KVM_GET_CLOCK, &saved->clock), "get the clock");
    for (uint32_t chip = 0; chip < CHIPS; chip++) {
        saved->chips[chip].chip_id = chip;
        checked(ioctl(guest->vm, KVM_GET_IRQCHIP, &saved->chips[chip]), "get a controller");
    }
    checked(ioctl(guest->vm, KVM_GET_PIT2, &saved->pit), "get the timer");
}

static void restore(const struct guest *guest, struct saved *saved)
{
    int vcpu = guest->vcpu;
    /* As pyvmm does to leave no exit under way. */
    guest->run->immediate_exit = 1;
    if (ioctl(vcpu, KVM_RUN, 0UL) == 0 || errno != EINTR)
        give_up("complete an exit");
    if (ioctl(vcpu, KVM_GET_TSC_KHZ, 0UL) != saved->tsc_khz)
        give_up("find the TSC's rate as it was");
    checked(ioctl(vcpu, set_sregs, &saved->sregs), "set special registers");
    checked(ioctl(vcpu, KVM_SET_REGS, &saved->regs), "set registers");
    checked(ioctl(vcpu, KVM_SET_XCRS, &saved->xcrs), "set XCRs");
    checked(ioctl(vcpu, KVM_SET_XSAVE, saved->xsave), "set the XSAVE area");
    checked(ioctl(vcpu, KVM_SET_LAPIC, &saved->lapic), "set the local APIC");
    checked(ioctl(vcpu, KVM_SET_MSRS, saved->msrs), "set MSRs");
    checked(ioctl(vcpu, KVM_SET_DEBUGREGS, &saved->debugregs), "set debug registers");
    checked(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &saved->events), "set events");
    checked(ioctl(vcpu, KVM_SET_MP_STATE, &saved->mp_state), "set what it waits for");
    struct kvm_clock_data clock = {.clock = saved->clock.clock};
    checked(ioctl(guest->vm, KVM_SET_CLOCK, &clock), "set the clock");
    for (uint32_t chip = 0; chip < CHIPS; chip++)
        checked(ioctl(guest->vm, KVM_SET_IRQCHIP, &saved->chips[chip]), "set a controller");
    checked(ioctl(guest->vm, KVM_SET_PIT2, &saved->pit), "set the timer");
}

static void open_vm(struct guest *guest)
{
    guest->kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    guest->run_size =
        (size_t)checked(ioctl(guest->kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL), "ask for kvm_run's size");
    guest->vm = checked(ioctl(guest->kvm, KVM_CREATE_VM, 0UL), "create a VM");
    checked(ioctl(guest->vm, KVM_CREATE_IRQCHIP, 0UL), "create controllers");
    struct kvm_pit_config pit = {.flags = 1};
    checked(ioctl(guest->vm, KVM_CREATE_PIT2, &pit), "create a timer");
    guest->vcpu = checked(ioctl(guest->vm, KVM_CREATE_VCPU, 0UL), "create a vCPU");
    guest->run = mmap(NULL, guest->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
    if (guest->run == MAP_FAILED)
        give_up("map kvm_run");
    give_cpuid(guest);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: saved_state ROUNDS [MSR...]\n");
        return 2;
    }
    unsigned long long rounds = number(argv[1]);
    struct guest guest = {0};
    struct saved saved = {0};
    open_vm(&guest);
    int xsave = ioctl(guest.kvm, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_XSAVE2);
    if (xsave > LEGACY_XSAVE)
        get_xsave = KVM_GET_XSAVE2;
    if (offers(guest.kvm, KVM_CAP_SREGS2)) {
        get_sregs = KVM_GET_SREGS2;
        set_sregs = KVM_SET_SREGS2;
    }
    uint32_t msrs = (uint32_t)(argc - 2);
    saved.xsave = calloc(1, xsave > LEGACY_XSAVE ? (size_t)xsave : LEGACY_XSAVE);
    saved.msrs = calloc(1, sizeof(*saved.msrs) + msrs * sizeof(saved.msrs->entries[0]));
    if (saved.xsave == NULL || saved.msrs == NULL)
        give_up("allocate");
    saved.msrs->nmsrs = msrs;
    for (uint32_t i = 0; i < msrs; i++)
        saved.msrs->entries[i].index = (uint32_t)number(argv[i + 2]);
    double saving = 0;
    double restoring = 0;
    /* The first round is the warm-up. */
    for (unsigned long long i = 0; i <= rounds; i++) {
        double started = seconds_now();
        save(&guest, &saved);
        double between = seconds_now();
        restore(&guest, &saved);
        double ended = seconds_now();
        if (i > 0) {
            saving += between - started;
            restoring += ended - between;
        }
    }
    printf("{\"save_us\": %.3f, \"restore_us\": %.3f}\n", saving / (double)rounds * 1e6,
           restoring / (double)rounds * 1e6);
    return 0;
}
