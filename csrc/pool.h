/* A small pool of threads. The caller works too; tasks go to whoever takes them, and nothing depends on who or when. */
#ifndef SPPIM_POOL_H
#define SPPIM_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "sppim.h"

typedef struct sppim_pool sppim_pool;

typedef struct sppim_worker {
    sppim_pool *pool;
    int id; /* 0 is the caller, the others 1..threads-1 */
} sppim_worker;

typedef void (*sppim_task)(void *context, size_t index, sppim_worker *worker);

sppim_pool *sppim_pool_create(int threads); /* null: out of memory */
void sppim_pool_destroy(sppim_pool *pool);

/* Asked between tasks and by long tasks; set before a call, lasts until the next set. */
void sppim_pool_set_poll(sppim_pool *pool, sppim_poll poll, void *user);

/* Runs task(context, 0 .. count-1). False: interrupted, and an unknown part of the tasks has run. */
bool sppim_pool_run(sppim_pool *pool, sppim_task task, void *context, size_t count);

/* For long work outside tasks, on the caller's thread: polls, true when the work is to be abandoned. */
bool sppim_pool_stop(sppim_pool *pool);

/* For long tasks: true when the work is to be abandoned. Polls if the worker is the caller. */
bool sppim_worker_stop(sppim_worker *worker);

#endif
