/* What the phases of a layer (forward.c, error.c, gradient.c, fold.c) share: the job that their tasks work on. */
#ifndef SPPIM_JOB_H
#define SPPIM_JOB_H

#include "network.h"
#include "products.h"

#define SPPIM_TASK_MACS ((size_t)8000000) /* a few milliseconds of work between two polls at the slowest level */

typedef struct sppim_job {
    sppim_network *network;
    sppim_layer *layer;
    size_t l;
    sppim_flight *flight;
    sppim_state *state; /* fold.c only */
    size_t rows;        /* of one task: images in forward.c and error.c, weight rows in gradient.c */
    size_t terms;       /* gradient.c: images or positions with errors, */
    size_t part, images; /* of so many images from this one on, */
    const int8_t *d;    /* whose errors are these, */
    bool partial;       /* and which are not the whole batch */
    size_t pairs;       /* gradient.c: of rows that a single image changes, */
    bool narrow;        /* and whether their gradients are (sppim_update) */
    size_t first;       /* fold.c: row of the first operand that is not zero, a multiple of SPPIM_DEPTH */
    size_t span;        /* forward.c: groups of columns of one task */
    bool skip;          /* zeros are skipped */
} sppim_job;

static inline size_t sppim_at_least_one(size_t x) { return x ? x : 1; }

static inline void sppim_add_saturations(sppim_layer *layer, int which, uint64_t count)
{
    if (count)
        atomic_fetch_add_explicit(&layer->saturations[which], count, memory_order_relaxed);
}

static inline void sppim_widen(const int8_t *restrict x, size_t count, int16_t *restrict out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = x[i];
}

/* Where the update of rows row .. of a panel reads and writes. */
static inline sppim_update_rows sppim_panel_rows(const sppim_layer *layer, const sppim_state *from, const sppim_state *to,
                                                 size_t row, size_t panel)
{
    const size_t at = (panel * layer->depth + row) * SPPIM_PANEL;
    sppim_update_rows place = {.w = from->w + at, .w_next = to->w + at, .zeros = to->zeros + panel * layer->depth + row};
    if (to->has_quads)
        place.quads = to->quads + at;
    if (to->has_rows)
        place.rows = to->rows + (panel / 2 * layer->depth + row) * SPPIM_GROUP + panel % 2 * SPPIM_PANEL;
    if (to->has_words)
        place.words = to->words + (panel / 2 * layer->depth + row) * SPPIM_GROUP + panel % 2 * SPPIM_PANEL;
    if (to->pairs != to->w)
        place.pairs = to->pairs ? to->pairs + at : NULL;
    return place;
}

#endif
