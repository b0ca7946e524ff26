/* SPDX-License-Identifier: MIT */
/* Held ranges of guest memory. See held.h. */
#include "held_inside.h"
#include "conversions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BITS 64
/* With more rows than this, sorting them costs less than comparing each with each. */
#define FEW_ROWS 16
#define NO_ROW (-1)

struct region {
    uint64_t gpa;
    uint64_t last; /* byte */
    uint64_t *not_shared; /* a bit for each page */
    uint64_t hva;         /* 0: not told */
    uint32_t slot;
    bool writable;
};

struct range {
    uint64_t gpa;
    uint64_t size;
    int64_t number;
};

struct table {
    struct range *ranges; /* in no order */
    uint32_t count;
    uint32_t room;
};

struct pyvmm_held {
    struct table tables[PYVMM_HELD_KINDS];
    struct region *regions; /* ascending */
    uint32_t region_count;
    int64_t last_number;
    bool closed;
};

struct pyvmm_held *pyvmm_held_new(void)
{
    return calloc(1, sizeof(struct pyvmm_held));
}

void pyvmm_held_free(struct pyvmm_held *held)
{
    for (uint32_t i = 0; i < held->region_count; i++)
        free(held->regions[i].not_shared);
    free(held->regions);
    for (int kind = 0; kind < PYVMM_HELD_KINDS; kind++)
        free(held->tables[kind].ranges);
    free(held);
}

void pyvmm_held_close(struct pyvmm_held *held)
{
    held->closed = true;
}

static bool enter(struct pyvmm_conversions *conversions)
{
    return pyvmm_conversions_lock(conversions) == 0;
}

static void leave(struct pyvmm_conversions *conversions, bool entered_here)
{
    if (entered_here)
        pyvmm_conversions_unlock(conversions);
}

/* The first region that ends above `gpa`. */
static uint32_t first_above(const struct pyvmm_held *held, uint64_t gpa)
{
    uint32_t low = 0, high = held->region_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct region *region = &held->regions[middle];
        if (region->last < gpa)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct region *region_at(const struct pyvmm_held *held, uint64_t gpa)
{
    uint32_t i = first_above(held, gpa);
    return i < held->region_count && held->regions[i].gpa <= gpa ? &held->regions[i] : NULL;
}

static uint64_t bits_from(uint64_t first, uint64_t last)
{
    return (~0ULL << first) & (~0ULL >> (BITS - 1 - last));
}

static void mark_in_word(uint64_t *word, uint64_t these, bool value)
{
    *word = value ? *word | these : *word & ~these;
}

/* Pages from `first` to `last`, both included. A page, as most conversions are, is in one word. */
static void mark(uint64_t *bits, uint64_t first, uint64_t last, bool value)
{
    uint64_t *word = &bits[first / BITS], *last_word = &bits[last / BITS];
    if (word == last_word) {
        mark_in_word(word, bits_from(first % BITS, last % BITS), value);
        return;
    }
    mark_in_word(word, bits_from(first % BITS, BITS - 1), value);
    while (++word < last_word)
        *word = value ? ~0ULL : 0;
    mark_in_word(last_word, bits_from(0, last % BITS), value);
}

static bool any(const uint64_t *bits, uint64_t first, uint64_t last)
{
    for (uint64_t word = first / BITS; word <= last / BITS; word++) {
        uint64_t low = word == first / BITS ? first % BITS : 0;
        uint64_t high = word == last / BITS ? last % BITS : BITS - 1;
        if (bits[word] & bits_from(low, high))
            return true;
    }
    return false;
}

/* Bytes from `gpa` to `last`, both included, all within the region. */
static bool all_shared(const struct region *region, uint64_t gpa, uint64_t last)
{
    return !any(region->not_shared, (gpa - region->gpa) / PAGE_SIZE,
                (last - region->gpa) / PAGE_SIZE);
}

void pyvmm_held_converted(struct pyvmm_held *held, uint64_t gpa, uint64_t size, bool shared)
{
    uint64_t last = gpa + (size - 1);
    for (uint32_t i = first_above(held, gpa); i < held->region_count; i++) {
        struct region *region = &held->regions[i];
        if (region->gpa > last)
            return;
        uint64_t low = gpa > region->gpa ? gpa : region->gpa;
        uint64_t high = last < region->last ? last : region->last;
        mark(region->not_shared, (low - region->gpa) / PAGE_SIZE,
             (high - region->gpa) / PAGE_SIZE, !shared);
    }
}

static const struct range *overlapping(const struct table *table, uint64_t gpa, uint64_t size)
{
    uint64_t last = gpa + (size - 1);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct range *range = &table->ranges[i];
        if (range->gpa <= last && gpa <= range->gpa + (range->size - 1))
            return range;
    }
    return NULL;
}

bool pyvmm_held_stops(const struct pyvmm_held *held, uint64_t gpa, uint64_t size)
{
    return overlapping(&held->tables[PYVMM_HELD_LEASE], gpa, size) != NULL ||
           overlapping(&held->tables[PYVMM_HELD_LISTENER], gpa, size) != NULL;
}

bool pyvmm_held_is_worked_on(const struct pyvmm_held *held, uint64_t gpa, uint64_t size)
{
    return overlapping(&held->tables[PYVMM_HELD_CONVERTING], gpa, size) != NULL ||
           overlapping(&held->tables[PYVMM_HELD_WORKING], gpa, size) != NULL;
}

bool pyvmm_held_is_free(const struct pyvmm_held *held, uint64_t gpa, uint64_t size)
{
    return !pyvmm_held_stops(held, gpa, size) && !pyvmm_held_is_worked_on(held, gpa, size);
}

/* -- regions -- */

static int insert_region(struct pyvmm_held *held, const struct region *region)
{
    uint32_t at = first_above(held, region->gpa);
    if (at < held->region_count && held->regions[at].gpa <= region->last)
        return -EEXIST;
    for (uint32_t i = 0; i < held->region_count; i++)
        if (held->regions[i].slot == region->slot)
            return -EEXIST;
    size_t size = (held->region_count + 1) * sizeof(*held->regions);
    struct region *regions = realloc(held->regions, size);
    if (regions == NULL)
        return -ENOMEM;
    memmove(&regions[at + 1], &regions[at], (held->region_count - at) * sizeof(*regions));
    regions[at] = *region;
    held->regions = regions;
    held->region_count++;
    return 0;
}

int pyvmm_held_add_region(struct pyvmm_conversions *conversions, uint32_t slot, uint64_t gpa,
                          uint64_t size, bool writable)
{
    if (slot >= PYVMM_HELD_SEVERAL || size == 0 || (gpa | size) % PAGE_SIZE != 0 || size - 1 > UINT64_MAX - gpa)
        return -EINVAL;
    uint64_t words = ((size / PAGE_SIZE) + BITS - 1) / BITS;
    struct region region = {gpa, gpa + (size - 1), calloc(words, sizeof(uint64_t)), 0, slot, writable};
    if (region.not_shared == NULL)
        return -ENOMEM;
    bool entered = enter(conversions);
    int result = insert_region(pyvmm_conversions_held(conversions), &region);
    leave(conversions, entered);
    if (result != 0)
        free(region.not_shared);
    return result;
}

void pyvmm_held_remove_region(struct pyvmm_conversions *conversions, uint32_t slot)
{
    bool entered = enter(conversions);
    struct pyvmm_held *held = pyvmm_conversions_held(conversions);
    for (uint32_t i = 0; i < held->region_count; i++) {
        struct region *region = &held->regions[i];
        if (region->slot == slot) {
            free(region->not_shared);
            held->region_count--;
            memmove(region, region + 1, (held->region_count - i) * sizeof(*region));
            break;
        }
    }
    leave(conversions, entered);
}

void pyvmm_held_note(struct pyvmm_conversions *conversions, uint64_t gpa, uint64_t size, bool shared)
{
    if (size == 0)
        return;
    bool entered = enter(conversions);
    pyvmm_held_converted(pyvmm_conversions_held(conversions), gpa, size, shared);
    leave(conversions, entered);
}

bool pyvmm_held_is_shared(struct pyvmm_conversions *conversions, uint64_t gpa, uint64_t size)
{
    bool entered = enter(conversions);
    const struct region *region = region_at(pyvmm_conversions_held(conversions), gpa);
    bool is = region != NULL && size != 0 && size - 1 <= region->last - gpa &&
              all_shared(region, gpa, gpa + (size - 1));
    leave(conversions, entered);
    return is;
}

/* -- what is held -- */

static int make_room(struct table *table, uint32_t more)
{
    if (more > PYVMM_HELD_RANGES - table->count)
        return -E2BIG;
    uint32_t room = table->room;
    while (room < table->count + more)
        room = room == 0 ? 16 : 2 * room;
    if (room == table->room)
        return 0;
    struct range *ranges = realloc(table->ranges, room * sizeof(*ranges));
    if (ranges == NULL)
        return -ENOMEM;
    table->ranges = ranges;
    table->room = room;
    return 0;
}

static void append(struct table *table, const uint64_t *rows, uint32_t count, int64_t number)
{
    for (uint32_t i = 0; i < count; i++)
        table->ranges[table->count++] = (struct range){rows[2 * i], rows[2 * i + 1], number};
}

static void forget(struct table *table, int64_t number)
{
    /* From the end: what was taken last is given back first, most of the time. */
    for (uint32_t i = table->count; i-- > 0;)
        if (table->ranges[i].number == number)
            table->ranges[i] = table->ranges[--table->count];
}

static int64_t refusal(uint32_t row, int reason)
{
    return -((int64_t)row * 16 + reason);
}

static int by_gpa(const void *left, const void *right)
{
    uint64_t a = ((const struct range *)left)->gpa, b = ((const struct range *)right)->gpa;
    return (a > b) - (a < b);
}

/* None is empty, and none wraps. The index of a row that overlaps another, NO_ROW or -ENOMEM. */
static int64_t overlapping_row(const uint64_t *rows, uint32_t count)
{
    if (count <= FEW_ROWS) {
        for (uint32_t i = 1; i < count; i++)
            for (uint32_t j = 0; j < i; j++)
                if (rows[2 * i] <= rows[2 * j] + (rows[2 * j + 1] - 1) &&
                    rows[2 * j] <= rows[2 * i] + (rows[2 * i + 1] - 1))
                    return i;
        return NO_ROW;
    }
    struct range *sorted = malloc(count * sizeof(*sorted));
    if (sorted == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (struct range){rows[2 * i], rows[2 * i + 1], i};
    qsort(sorted, count, sizeof(*sorted), by_gpa);
    int64_t found = NO_ROW;
    for (uint32_t i = 1; i < count && found == NO_ROW; i++)
        if (sorted[i].gpa <= sorted[i - 1].gpa + (sorted[i - 1].size - 1))
            found = sorted[i].number;
    free(sorted);
    return found;
}

static int64_t ill_formed(const uint64_t *rows, uint32_t count, bool writable)
{
    for (uint32_t i = 0; i < count; i++) {
        if (rows[2 * i + 1] == 0)
            return refusal(i, PYVMM_LEASE_EMPTY);
        if (rows[2 * i + 1] - 1 > UINT64_MAX - rows[2 * i])
            return refusal(i, PYVMM_LEASE_WRAPS);
    }
    int64_t row = writable ? overlapping_row(rows, count) : NO_ROW;
    if (row == -ENOMEM)
        return refusal(0, PYVMM_LEASE_MEMORY_SHORT);
    return row == NO_ROW ? 0 : refusal((uint32_t)row, PYVMM_LEASE_OVERLAPS);
}

static int refused(const struct pyvmm_held *held, const struct region *region, uint64_t gpa,
                   uint64_t size, bool writable)
{
    if (region == NULL || size - 1 > region->last - gpa)
        return PYVMM_LEASE_NO_MEMORY;
    if (!all_shared(region, gpa, gpa + (size - 1)))
        return PYVMM_LEASE_NOT_SHARED;
    if (writable && !region->writable)
        return PYVMM_LEASE_READ_ONLY;
    bool is_taken = overlapping(&held->tables[PYVMM_HELD_WAITING], gpa, size) != NULL ||
                    overlapping(&held->tables[PYVMM_HELD_CONVERTING], gpa, size) != NULL;
    return is_taken ? PYVMM_LEASE_CONVERTING : 0;
}

static int64_t next_number(struct pyvmm_held *held, uint32_t slot)
{
    return ++held->last_number << 16 | slot;
}

static int64_t lease(struct pyvmm_held *held, const uint64_t *rows, uint32_t count, bool writable)
{
    struct table *table = &held->tables[PYVMM_HELD_LEASE];
    uint32_t slot = 0;
    if (held->closed)
        return refusal(0, PYVMM_LEASE_CLOSED);
    for (uint32_t i = 0; i < count; i++) {
        const struct region *region = region_at(held, rows[2 * i]);
        int reason = refused(held, region, rows[2 * i], rows[2 * i + 1], writable);
        if (reason != 0)
            return refusal(i, reason);
        slot = i == 0 || slot == region->slot ? region->slot : PYVMM_HELD_SEVERAL;
    }
    int room = make_room(table, count);
    if (room != 0)
        return refusal(0, room == -ENOMEM ? PYVMM_LEASE_MEMORY_SHORT : PYVMM_LEASE_TOO_MANY);
    int64_t number = next_number(held, slot);
    append(table, rows, count, number);
    return number;
}

int64_t pyvmm_held_lease(struct pyvmm_conversions *conversions, const void *packed, uint32_t count,
                         bool writable)
{
    const uint64_t *rows = packed;
    int64_t result = ill_formed(rows, count, writable);
    if (result != 0)
        return result;
    bool entered = enter(conversions);
    result = lease(pyvmm_conversions_held(conversions), rows, count, writable);
    leave(conversions, entered);
    return result;
}

void pyvmm_held_place(struct pyvmm_conversions *conversions, uint32_t slot, uint64_t hva)
{
    bool entered = enter(conversions);
    struct pyvmm_held *held = pyvmm_conversions_held(conversions);
    for (uint32_t i = 0; i < held->region_count; i++)
        if (held->regions[i].slot == slot)
            held->regions[i].hva = hva;
    leave(conversions, entered);
}

/* Of rows that are leased, so that their regions stay. False where one is not placed. */
static bool places(const struct pyvmm_held *held, const uint64_t *rows, uint32_t count, uint8_t **at)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct region *region = region_at(held, rows[2 * i]);
        if (region->hva == 0)
            return false;
        at[i] = (uint8_t *)(uintptr_t)(region->hva + (rows[2 * i] - region->gpa));
    }
    return true;
}

int64_t pyvmm_held_lease_at(struct pyvmm_conversions *conversions, const uint64_t *rows,
                            uint32_t count, bool writable, uint8_t **at)
{
    int64_t result = ill_formed(rows, count, writable);
    if (result != 0)
        return result;
    bool entered = enter(conversions);
    struct pyvmm_held *held = pyvmm_conversions_held(conversions);
    result = lease(held, rows, count, writable);
    if (result > 0 && !places(held, rows, count, at)) {
        forget(&held->tables[PYVMM_HELD_LEASE], result);
        result = refusal(0, PYVMM_LEASE_NO_MEMORY);
    }
    leave(conversions, entered);
    return result;
}

static bool is_in_steps(uint32_t kind)
{
    return kind == PYVMM_HELD_CONVERTING || kind == PYVMM_HELD_WORKING;
}

static bool any_is_worked_on(const struct pyvmm_held *held, const uint64_t *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (pyvmm_held_is_worked_on(held, rows[2 * i], rows[2 * i + 1]))
            return true;
    return false;
}

static int64_t hold_rows(struct pyvmm_held *held, uint32_t kind, const uint64_t *rows, uint32_t count)
{
    if (is_in_steps(kind) && any_is_worked_on(held, rows, count))
        return 0;
    int room = make_room(&held->tables[kind], count);
    if (room != 0)
        return room;
    int64_t number = next_number(held, PYVMM_HELD_SEVERAL);
    append(&held->tables[kind], rows, count, number);
    return number;
}

int64_t pyvmm_held_begin(struct pyvmm_held *held, uint32_t kind, uint64_t gpa, uint64_t size)
{
    const uint64_t row[] = {gpa, size};
    return hold_rows(held, kind, row, 1);
}

void pyvmm_held_end(struct pyvmm_held *held, uint32_t kind, int64_t number)
{
    forget(&held->tables[kind], number);
}

int64_t pyvmm_held_hold(struct pyvmm_conversions *conversions, uint32_t kind, const uint64_t *rows,
                        uint32_t count)
{
    if (kind >= PYVMM_HELD_KINDS || kind == PYVMM_HELD_LEASE ||
        ill_formed(rows, count, false) != 0)
        return -EINVAL;
    bool entered = enter(conversions);
    int64_t result = hold_rows(pyvmm_conversions_held(conversions), kind, rows, count);
    leave(conversions, entered);
    return result;
}

bool pyvmm_held_release(struct pyvmm_conversions *conversions, uint32_t kind, int64_t number)
{
    bool entered = enter(conversions);
    struct pyvmm_held *held = pyvmm_conversions_held(conversions);
    forget(&held->tables[kind], number);
    if (is_in_steps(kind))
        pyvmm_conversions_note_end(conversions);
    bool somebody_waits = held->tables[PYVMM_HELD_WAITING].count != 0;
    leave(conversions, entered);
    return somebody_waits;
}

int64_t pyvmm_held_overlapping(struct pyvmm_conversions *conversions, uint32_t kind, uint64_t gpa,
                               uint64_t size)
{
    if (kind >= PYVMM_HELD_KINDS)
        return 0;
    bool entered = enter(conversions);
    struct pyvmm_held *held = pyvmm_conversions_held(conversions);
    const struct range *range = overlapping(&held->tables[kind], gpa, size);
    int64_t number = range == NULL ? 0 : range->number;
    leave(conversions, entered);
    return number;
}
