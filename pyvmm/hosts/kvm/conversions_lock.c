/* SPDX-License-Identifier: MIT */
/* The lock of all conversions of a VM, and what held.c finds behind it. */
#define _GNU_SOURCE
#include "conversions_inside.h"
#include "held_inside.h"

struct pyvmm_held *pyvmm_conversions_held(struct pyvmm_conversions *conversions)
{
    return conversions->held;
}

int pyvmm_conversions_lock(struct pyvmm_conversions *conversions)
{
    return -pthread_mutex_lock(&conversions->lock);
}

int pyvmm_conversions_unlock(struct pyvmm_conversions *conversions)
{
    return -pthread_mutex_unlock(&conversions->lock);
}
