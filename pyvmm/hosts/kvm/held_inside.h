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
/* Notes what a vCPU's thread has converted. */
void pyvmm_held_converted(struct pyvmm_held *held, uint64_t gpa, uint64_t size, bool shared);
/* conversions_lock.c's. */
struct pyvmm_held *pyvmm_conversions_held(struct pyvmm_conversions *conversions);
