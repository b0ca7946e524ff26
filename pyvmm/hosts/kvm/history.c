/* SPDX-License-Identifier: MIT */
/* The record of a vCPU's recent exits, and its counters. See history.h. */
#include "history.h"

#include <string.h>
#include <time.h>

uint64_t pyvmm_little_endian(const uint8_t *bytes, uint32_t size)
{
    uint64_t value = 0;
    memcpy(&value, bytes, size <= sizeof(value) ? size : sizeof(value));
    return value;
}

static void describe(const struct kvm_run *run, bool sound, struct pyvmm_record *record)
{
    *record = (struct pyvmm_record){.reason = run->exit_reason, .count = 1};
    if (!sound)
        return;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        record->address = run->u.io.port;
        record->size = run->u.io.size;
        record->is_write = run->u.io.direction == KVM_EXIT_IO_OUT;
        if (record->is_write && run->u.io.count != 0)
            record->value =
                pyvmm_little_endian((const uint8_t *)run + run->u.io.data_offset, record->size);
        break;
    case KVM_EXIT_MMIO:
        record->address = run->u.mmio.phys_addr;
        record->size = run->u.mmio.len;
        record->is_write = run->u.mmio.is_write != 0;
        if (record->is_write)
            record->value = pyvmm_little_endian(run->u.mmio.data, record->size);
        break;
    case KVM_EXIT_HYPERCALL:
        record->address = run->u.hypercall.nr;
        break;
    case KVM_EXIT_MEMORY_FAULT:
        record->address = run->u.memory_fault.gpa;
        record->size = (uint32_t)run->u.memory_fault.size;
        break;
    default:
        break;
    }
}

/* By the vDSO: no system call. */
static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

void pyvmm_history_add(struct pyvmm_history *history, const struct kvm_run *run, bool sound)
{
    struct pyvmm_record record;
    describe(run, sound, &record);
    record.when = now();
    struct pyvmm_record *last =
        &history->records[(history->next + PYVMM_RECORDS - 1) % PYVMM_RECORDS];
    if (history->held != 0 && last->reason == record.reason &&
        last->address == record.address && last->size == record.size &&
        last->is_write == record.is_write) {
        last->count++;
        last->when = record.when;
        return;
    }
    history->records[history->next] = record;
    history->next = (history->next + 1) % PYVMM_RECORDS;
    if (history->held < PYVMM_RECORDS)
        history->held++;
}

void pyvmm_history_count(struct pyvmm_history *history, uint32_t reason)
{
    history->counts[reason < PYVMM_REASONS ? reason : PYVMM_REASONS]++;
}

uint32_t pyvmm_history_records(const struct pyvmm_history *history, struct pyvmm_record *out)
{
    uint32_t first = (history->next + PYVMM_RECORDS - history->held) % PYVMM_RECORDS;
    for (uint32_t i = 0; i < history->held; i++)
        out[i] = history->records[(first + i) % PYVMM_RECORDS];
    return history->held;
}
