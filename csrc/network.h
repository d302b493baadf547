/* The parts of a network: what network.c makes, tick.c moves, state.c shows, and the phases of a layer work on. */
#ifndef SPPIM_NETWORK_H
#define SPPIM_NETWORK_H

#include <stdatomic.h>
#include <stdbool.h>

#include "count.h"
#include "kernels.h"
#include "pool.h"

/* Non-zeros of the rows of a matrix [n][width], with the place where each block of `block` columns starts. */
typedef struct sppim_list {
    uint16_t *index;
    int8_t *value;
    uint32_t *offset; /* [n][blocks + 1] */
    size_t width, block, blocks;
} sppim_list;

/* Non-zeros of row `row` in the blocks first .. last-1. */
static inline sppim_nonzeros sppim_list_blocks(const sppim_list *list, size_t row, size_t first, size_t last)
{
    const uint32_t *offset = list->offset + row * (list->blocks + 1);
    const size_t start = row * list->width + offset[first];
    return (sppim_nonzeros){list->index + start, list->value + start, offset[last] - offset[first]};
}

static inline sppim_nonzeros sppim_list_row(const sppim_list *list, size_t row)
{
    return sppim_list_blocks(list, row, 0, list->blocks);
}

/* State of a layer between two ticks (A8), and what follows from it. */
typedef struct sppim_state {
    int16_t *w, *v;         /* [K + 1][N] */
    int16_t *mean;          /* [K], M */
    int8_t *m;              /* [K] */
    int32_t *score_bias;    /* [C], hidden layers */
    int64_t *start;         /* [N], S */
    uint32_t *row_zeros;    /* [K + 1], zeros of V's rows */
    uint32_t *column_zeros; /* [N], of V's columns, rows 0 .. K-1; rule bp */
} sppim_state;

enum { SPPIM_SAT_ACC, SPPIM_SAT_ACTIVATION, SPPIM_SAT_ERROR, SPPIM_SAT_DELTA, SPPIM_SAT_WEIGHT, SPPIM_SATS };

typedef struct sppim_layer {
    sppim_layer_config config;
    sppim_shape shape;
    sppim_place place;
    size_t k, n, classes;
    sppim_state now, next; /* read in a tick; written in a tick, taken over at its end */
    bool updated;          /* next is to be taken over */
    uint8_t *codes;        /* [C][N], hidden layers */
    int8_t *e;             /* [batch][C] class errors */
    int8_t *d;             /* [batch][N] errors */
    sppim_list d_list;
    int64_t *input_sum;    /* [K] X */
    int64_t *error_sum;    /* [N] D */
    atomic_uint_fast64_t saturations[SPPIM_SATS];
    sppim_counters counters, delta; /* since creation; of this tick */
} sppim_layer;

/* A batch between entering and retiring. */
typedef struct sppim_flight {
    bool occupied;
    uint64_t batch;
    size_t n;
    int rate_shift;
    int32_t *labels;
    int8_t **x;         /* [layers]: the layer's inputs [batch][K] */
    sppim_list *x_list; /* [layers] */
    int64_t *scores;    /* [batch][C] */
    uint32_t *input_nonzeros, *error_nonzeros; /* [layers][n] */
} sppim_flight;

struct sppim_network {
    sppim_network_config config;
    const sppim_kernels *kernels;
    sppim_pool *pool;
    void *allocations;
    size_t layer_count, classes;
    sppim_layer *layers;
    sppim_flight *flights; /* ring: the batch of tick T in T % depth */
    size_t depth;
    sppim_flight evaluation;
    int32_t *tiles;        /* [threads][SPPIM_TILE_ROWS][SPPIM_TILE_COLUMNS] gradients */
    uint64_t ticks, batches;
    atomic_flag busy;
};

/* Each returns false if interrupted. */

/* Non-zeros of x into list, n rows of `width`. */
bool sppim_compress(sppim_network *network, const int8_t *x, size_t n, sppim_list *list);
/* FP of a layer (A5): reads flight->x[l], writes flight->x[l + 1] and its list, or flight->scores. */
bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight);
/* EP, GC and update of a layer (A6, A7) into layer->next. The layers above have had theirs in this tick. */
bool sppim_layer_backward(sppim_network *network, size_t l, sppim_flight *flight);
/* S and the zero counts of a state from its V and m. */
bool sppim_layer_derive(sppim_network *network, size_t l, sppim_state *state);
/* V, m, S and the zero counts of the present state from its W and M; not interruptible. */
void sppim_layer_complete(sppim_network *network, size_t l);

#endif
