/* What the phases of a layer (forward.c, error.c, gradient.c, fold.c) share: the job that their tasks work on. */
#ifndef SPPIM_JOB_H
#define SPPIM_JOB_H

#include "network.h"

#define SPPIM_TASK_MACS ((size_t)2000000) /* about a millisecond of work between two polls */

typedef struct sppim_job {
    sppim_network *network;
    sppim_layer *layer;
    size_t l;
    sppim_flight *flight;
    sppim_state *state; /* fold.c only */
    size_t images;      /* forward.c only: images of one task, */
    bool dense;         /* and the kernel */
} sppim_job;

static inline size_t sppim_at_least_one(size_t x) { return x ? x : 1; }
static inline size_t sppim_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t sppim_smaller(size_t a, size_t b) { return a < b ? a : b; }

static inline size_t sppim_column_tiles(const sppim_layer *layer)
{
    return sppim_ceil_div(layer->n, SPPIM_TILE_COLUMNS);
}

static inline void sppim_add_saturations(sppim_layer *layer, int which, uint64_t count)
{
    if (count)
        atomic_fetch_add_explicit(&layer->saturations[which], count, memory_order_relaxed);
}

/* EP (A6): class errors and errors of every image, into layer->e and layer->d. */
bool sppim_predict_errors(sppim_job *job);
/* GC and update (A7): gradient, new weights, means and score biases, into layer->next. */
bool sppim_update_layer(sppim_job *job);

#endif
