/* SPDX-License-Identifier: MIT */
/* The lock of all conversions of a VM, and what held.c finds behind it. */
#define _GNU_SOURCE
#include "conversions_inside.h"
#include "held_inside.h"

struct pyvmm_held *pyvmm_conversions_held(struct pyvmm_conversions *conversions)
{
    return conversions->held;
}

int pyvmm_conversions_lock_init(struct pyvmm_conversions *conversions)
{
    pthread_mutexattr_t checking;
    pthread_mutexattr_init(&checking);
    /* So that a thread that has the lock is told so, instead of waiting for itself. */
    pthread_mutexattr_settype(&checking, PTHREAD_MUTEX_ERRORCHECK);
    int result = pthread_mutex_init(&conversions->lock, &checking);
    pthread_mutexattr_destroy(&checking);
    pthread_cond_init(&conversions->turned, NULL);
    pthread_cond_init(&conversions->ended, NULL);
    return -result;
}

void pyvmm_conversions_lock_destroy(struct pyvmm_conversions *conversions)
{
    pthread_cond_destroy(&conversions->ended);
    pthread_cond_destroy(&conversions->turned);
    pthread_mutex_destroy(&conversions->lock);
}

/* The calling thread, which is in `waiting`, has the lock now. */
static void have_turn(struct pyvmm_conversions *conversions)
{
    __atomic_sub_fetch(&conversions->waiting, 1, __ATOMIC_SEQ_CST);
    conversions->turns++;
    pthread_cond_broadcast(&conversions->turned);
}

int pyvmm_conversions_lock(struct pyvmm_conversions *conversions)
{
    if (pthread_mutex_trylock(&conversions->lock) == 0)
        return 0;
    __atomic_add_fetch(&conversions->waiting, 1, __ATOMIC_SEQ_CST);
    int result = pthread_mutex_lock(&conversions->lock);
    if (result == 0)
        have_turn(conversions);
    else
        __atomic_sub_fetch(&conversions->waiting, 1, __ATOMIC_SEQ_CST);
    return -result;
}

int pyvmm_conversions_unlock(struct pyvmm_conversions *conversions)
{
    return -pthread_mutex_unlock(&conversions->lock);
}

/*
 * A mutex is not a fair one: who unlocks it and locks it again has it before anybody has woken up. So
 * this thread sleeps until all that wait now have had it. They all will: each of them waits for the
 * lock, or, in here, for such as came before it.
 */
bool pyvmm_conversions_give_way(struct pyvmm_conversions *conversions)
{
    uint32_t others = __atomic_load_n(&conversions->waiting, __ATOMIC_SEQ_CST);
    if (others == 0)
        return false;
    uint64_t until = conversions->turns + others;
    __atomic_add_fetch(&conversions->waiting, 1, __ATOMIC_SEQ_CST);
    while (conversions->turns < until)
        pthread_cond_wait(&conversions->turned, &conversions->lock);
    have_turn(conversions);
    return true;
}

void pyvmm_conversions_await_end(struct pyvmm_conversions *conversions)
{
    uint64_t seen = conversions->ends;
    __atomic_add_fetch(&conversions->awaiting, 1, __ATOMIC_SEQ_CST);
    while (conversions->ends == seen)
        pthread_cond_wait(&conversions->ended, &conversions->lock);
    have_turn(conversions);
}

void pyvmm_conversions_note_end(struct pyvmm_conversions *conversions)
{
    conversions->ends++;
    /* From here on they wait for the lock: who works in steps gives way to them. */
    uint32_t awaiting = __atomic_exchange_n(&conversions->awaiting, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&conversions->waiting, awaiting, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&conversions->ended);
}

uint32_t pyvmm_conversions_waiting(struct pyvmm_conversions *conversions)
{
    return __atomic_load_n(&conversions->waiting, __ATOMIC_SEQ_CST) +
           __atomic_load_n(&conversions->awaiting, __ATOMIC_SEQ_CST);
}
