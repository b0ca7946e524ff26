/* SPDX-License-Identifier: MIT */
/*
 * conversions GUEST KIND SIZE COUNT SWEEPS TOUCH [in-place]: pages converted between private and shared, in a
 * VM of type KVM_X86_SW_PROTECTED_VM. GUEST is a file with the guest's code (conversions_guest.S).
 * COUNT ranges of SIZE bytes are converted one after the other, SWEEPS times. KIND:
 *   sweeps           the guest asks: all ranges to private, then all to shared
 *   back_and_forth   the guest asks: each range to private and back
 *   to_shared        the guest touches memory without a private side that is withheld from it
 *   to_private       the guest touches memory whose memslot is not there, COUNT slots
 * TOUCH is how many bytes apart the guest touches what was converted by sweeps, 0 not at all.
 * in-place: the guest_memfd is mapped, too, and keeps the attributes; there is nothing to discard.
 * Prints seconds by direction.
 */
#include "baseline.h"

#define KVM_ENABLE_CAP 0x4068aea3UL
#define KVM_SET_MEMORY_ATTRIBUTES 0x4020aed2UL
#define KVM_SET_MEMORY_ATTRIBUTES2 0xc080aed2UL /* of a guest_memfd, as posted */
#define MMAP_AND_INIT_SHARED 3
#define KVM_CAP_EXIT_HYPERCALL 201
#define KVM_X86_SW_PROTECTED_VM 1UL
#define KVM_EXIT_HYPERCALL 3
#define KVM_EXIT_MEMORY_FAULT 39
#define MAP_GPA_RANGE 12
#define TO_PRIVATE 0x10ULL
#define ATTRIBUTE_PRIVATE (1ULL << 3)

#define CODE_SIZE (2UL << 20)
#define DATA_GPA (1UL << 30)
#define MARK 0xf4

static struct guest guest;
static size_t range_size, range_count, data_size;
static uint8_t *data;     /* the shared side */
static int private_memfd; /* the private side; -1 where there is none */
static bool in_place;     /* both sides are the guest_memfd, and `data` its mapping */
static bool by_slots;     /* one memslot for each range, numbered from 1 on */

static uint8_t *mapped(int memfd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);
    if (memory == MAP_FAILED)
        give_up("map guest memory");
    return memory;
}

static uint8_t *shared_memory(size_t size)
{
    int memfd = checked(memfd_create("baseline", MFD_CLOEXEC), "create a memfd");
    checked(ftruncate(memfd, (off_t)size), "size the memfd");
    uint8_t *memory = mapped(memfd, size);
    close(memfd);
    return memory;
}

static void set_slot(uint32_t slot, uint64_t gpa, size_t size, uint8_t *hva, int memfd,
                     uint64_t offset)
{
    if (memfd < 0) {
        struct kvm_userspace_memory_region region = {.slot = slot,
                                                     .guest_phys_addr = gpa,
                                                     .memory_size = size,
                                                     .userspace_addr = (uintptr_t)hva};
        checked(ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, &region), "set a memslot");
        return;
    }
    struct kvm_userspace_memory_region2 region = {.slot = slot,
                                                  .flags = KVM_MEM_GUEST_MEMFD,
                                                  .guest_phys_addr = gpa,
                                                  .memory_size = size,
                                                  .userspace_addr = (uintptr_t)hva,
                                                  .guest_memfd_offset = offset,
                                                  .guest_memfd = (uint32_t)memfd};
    checked(ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION2, &region), "set a memslot");
}

/* The slot of range `i`; `size` 0 deletes it. */
static void set_range_slot(size_t i, size_t size)
{
    uint64_t offset = i * range_size;
    set_slot((uint32_t)i + 1, DATA_GPA + offset, size, data + offset, private_memfd, offset);
}

static void set_attributes(uint64_t gpa, size_t size, uint64_t value)
{
    struct kvm_memory_attributes attributes = {.address = gpa, .size = size, .attributes = value};
    while (ioctl(guest.vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes) != 0)
        if (errno != EINTR && errno != EAGAIN)
            give_up("set memory attributes");
}

/* struct kvm_memory_attributes2: offset, size, attributes, flags, error_offset, reserved. */
static void set_file_attributes(uint64_t offset, size_t size, uint64_t value)
{
    uint64_t attributes[16] = {offset, size, value};
    while (ioctl(private_memfd, KVM_SET_MEMORY_ATTRIBUTES2, attributes) != 0)
        if (errno != EINTR && errno != EAGAIN)
            give_up("set memory attributes of the guest_memfd");
}

static void discard_shared(uint64_t gpa, size_t size)
{
    checked(madvise(data + (gpa - DATA_GPA), size, MADV_REMOVE), "discard shared pages");
}

static void discard_private(uint64_t gpa, size_t size)
{
    checked(fallocate(private_memfd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                      (off_t)(gpa - DATA_GPA), (off_t)size),
            "discard private pages");
}

/* What the guest asked for, with the checks without which no monitor can do it. */
static void answer_hypercall(void)
{
    const uint64_t *args = guest.run->u.hypercall.args;
    uint64_t gpa = args[0], size = args[1] << 12;
    if (guest.run->u.hypercall.nr != MAP_GPA_RANGE || gpa < DATA_GPA || size > data_size ||
        gpa - DATA_GPA > data_size - size) {
        fprintf(stderr, "the guest asked for something else\n");
        exit(1);
    }
    bool to_private = (args[2] & TO_PRIVATE) != 0;
    if (in_place) {
        set_file_attributes(gpa - DATA_GPA, size, to_private ? ATTRIBUTE_PRIVATE : 0);
    } else if (to_private) {
        set_attributes(gpa, size, ATTRIBUTE_PRIVATE);
        discard_shared(gpa, size);
    } else {
        set_attributes(gpa, size, 0);
        discard_private(gpa, size);
    }
    guest.run->u.hypercall.ret = 0;
}

/* Converts the range that the guest touched, all of it. */
static void resolve_fault(void)
{
    uint64_t gpa = guest.run->u.memory_fault.gpa;
    if (gpa < DATA_GPA || gpa - DATA_GPA >= data_size) {
        fprintf(stderr, "the guest touched something else\n");
        exit(1);
    }
    size_t i = (gpa - DATA_GPA) / range_size;
    if (by_slots)
        set_range_slot(i, range_size);
    else
        set_attributes(DATA_GPA + i * range_size, range_size, 0);
}

/* Runs to the next mark; how long it took. */
static double stretch(void)
{
    struct kvm_run *run = guest.run;
    double started = seconds_now();
    for (;;) {
        int result = ioctl(guest.vcpu, KVM_RUN, 0UL);
        if (result != 0 && errno == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
            resolve_fault();
        else if (result != 0 && errno != EINTR && errno != EAGAIN)
            give_up("run the guest");
        else if (result == 0 && run->exit_reason == KVM_EXIT_HYPERCALL)
            answer_hypercall();
        else if (result == 0)
            break;
    }
    if (run->exit_reason != KVM_EXIT_IO || run->u.io.port != MARK) {
        fprintf(stderr, "the guest stopped for reason %u\n", run->exit_reason);
        exit(1);
    }
    return seconds_now() - started;
}

/* The data are out of the guest's reach, and nothing of them takes memory. */
static void withhold(void)
{
    if (!by_slots) {
        set_attributes(DATA_GPA, data_size, ATTRIBUTE_PRIVATE);
        discard_shared(DATA_GPA, data_size);
        return;
    }
    for (size_t i = 0; i < range_count; i++) {
        uint64_t gpa = DATA_GPA + i * range_size;
        set_attributes(gpa, range_size, ATTRIBUTE_PRIVATE);
        set_range_slot(i, 0);
        discard_shared(gpa, range_size);
        discard_private(gpa, range_size);
    }
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .db = 1, .s = 1, .g = 1};
}

static void enter_at(uint64_t entry, uint64_t touch)
{
    struct kvm_sregs sregs;
    checked(ioctl(guest.vcpu, KVM_GET_SREGS, &sregs), "get special registers");
    sregs.cs = flat(8, 0xb);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3);
    sregs.cr0 = 0x11; /* PE, ET */
    checked(ioctl(guest.vcpu, KVM_SET_SREGS, &sregs), "set special registers");
    struct kvm_regs regs = {.rip = entry,
                            .rflags = 2,
                            .rcx = range_size >> 12,
                            .rdi = DATA_GPA,
                            .rbp = DATA_GPA + data_size,
                            .rsp = touch};
    checked(ioctl(guest.vcpu, KVM_SET_REGS, &regs), "set registers");
}

static void load(const char *file)
{
    guest.ram = shared_memory(CODE_SIZE);
    int fd = checked(open(file, O_RDONLY | O_CLOEXEC), "open the guest");
    if (read(fd, guest.ram, CODE_SIZE) <= 0)
        give_up("read the guest");
    close(fd);
    set_slot(0, 0, CODE_SIZE, guest.ram, -1, 0);
}

static void open_all(const char *file, bool has_private_side)
{
    guest.kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    guest.run_size =
        (size_t)checked(ioctl(guest.kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL), "ask for kvm_run's size");
    guest.vm = checked(ioctl(guest.kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM), "create a VM");
    struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_HYPERCALL, .args = {1UL << MAP_GPA_RANGE}};
    checked(ioctl(guest.vm, KVM_ENABLE_CAP, &cap), "have hypercalls exit");
    load(file);
    private_memfd = -1;
    if (has_private_side) {
        struct kvm_create_guest_memfd create = {.size = data_size,
                                                .flags = in_place ? MMAP_AND_INIT_SHARED : 0};
        private_memfd =
            checked(ioctl(guest.vm, KVM_CREATE_GUEST_MEMFD, &create), "create a guest_memfd");
    }
    data = in_place ? mapped(private_memfd, data_size) : shared_memory(data_size);
    if (by_slots)
        for (size_t i = 0; i < range_count; i++)
            set_range_slot(i, range_size);
    else
        set_slot(1, DATA_GPA, data_size, data, private_memfd, 0);
    guest.vcpu = checked(ioctl(guest.vm, KVM_CREATE_VCPU, 0UL), "create a vCPU");
    guest.run = mmap(NULL, guest.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, guest.vcpu, 0);
    if (guest.run == MAP_FAILED)
        give_up("map kvm_run");
    give_cpuid(&guest);
}

int main(int argc, char **argv)
{
    in_place = argc == 8 && strcmp(argv[7], "in-place") == 0;
    if (argc != 7 && !in_place) {
        fprintf(stderr, "usage: conversions GUEST KIND SIZE COUNT SWEEPS TOUCH [in-place]\n");
        return 2;
    }
    const char *kind = argv[2];
    range_size = number(argv[3]);
    range_count = number(argv[4]);
    unsigned long long sweeps = number(argv[5]);
    uint64_t touch = strcmp(argv[6], "0") == 0 ? 0 : number(argv[6]);
    data_size = range_size * range_count;
    bool touches = kind[0] == 't';
    by_slots = strcmp(kind, "to_private") == 0;
    open_all(argv[1], strcmp(kind, "to_shared") != 0);
    bool in_turns = strcmp(kind, "back_and_forth") == 0;
    enter_at(touches ? 0x200 : in_turns ? 0x100 : 0, touch);

    double to_private = 0, to_shared = 0;
    stretch();
    for (unsigned long long i = 0; i < sweeps; i++) {
        if (touches) {
            withhold();
            *(by_slots ? &to_private : &to_shared) += stretch();
        } else if (in_turns) {
            to_private += stretch();
        } else {
            to_private += stretch();
            stretch();
            to_shared += stretch();
            stretch();
        }
    }
    printf("{\"to_private\": %.9f, \"to_shared\": %.9f}\n", to_private, to_shared);
    return 0;
}
