/* SPDX-License-Identifier: MIT */
/* The held ranges as conversions.c has them. Callers have the lock of all conversions. */
#pragma once
#include "held.h"

struct pyvmm_held *pyvmm_held_new(void);
void pyvmm_held_free(struct pyvmm_held *held);
/* No lease is given from here on. */
void pyvmm_held_close(struct pyvmm_held *held);
/* Whether a conversion of the range is Python's work: a lease or a listener overlaps it. */
bool pyvmm_held_stops(const struct pyvmm_held *held, uint64_t gpa, uint64_t size);
/* Whether any of the range is worked on in steps. */
bool pyvmm_held_is_worked_on(const struct pyvmm_held *held, uint64_t gpa, uint64_t size);
/* Neither of these. */
bool pyvmm_held_is_free(const struct pyvmm_held *held, uint64_t gpa, uint64_t size);
/* Holds the range as `kind`, one of those that are worked on in steps; as pyvmm_held_hold. */
int64_t pyvmm_held_begin(struct pyvmm_held *held, uint32_t kind, uint64_t gpa, uint64_t size);
/* Releases what that has held. The caller notes the end. */
void pyvmm_held_end(struct pyvmm_held *held, uint32_t kind, int64_t number);
/* Notes what a vCPU's thread has converted. */
void pyvmm_held_converted(struct pyvmm_held *held, uint64_t gpa, uint64_t size, bool shared);
/* conversions_lock.c's. */
struct pyvmm_held *pyvmm_conversions_held(struct pyvmm_conversions *conversions);
int pyvmm_conversions_lock_init(struct pyvmm_conversions *conversions);
void pyvmm_conversions_lock_destroy(struct pyvmm_conversions *conversions);
/* With the lock: something that was worked on in steps is released, and who awaits that wakes up. */
void pyvmm_conversions_note_end(struct pyvmm_conversions *conversions);
