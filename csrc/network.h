/* The parts of a network: what network.c makes, tick.c moves, state.c shows, and the phases of a layer work on. */
#ifndef SPPIM_NETWORK_H
#define SPPIM_NETWORK_H

#include <stdatomic.h>
#include <stdbool.h>

#include "count.h"
#include "fixed.h"
#include "kernels.h"
#include "pool.h"

/* State of a layer between two ticks (A8), and what follows from it. Weights lie in panels (panel.h). */
typedef struct sppim_state {
    int16_t *w;             /* pairs */
    int16_t *pairs;         /* product weights as pairs (w itself at 16 bits), as quads, as rows; null: of no use here */
    int8_t *quads, *rows;
    int16_t *words;         /* ... as words */
    bool has_quads, has_rows, has_words; /* which of the three follow from w now */
    uint8_t *zeros;         /* [panels][depth], zero product weights of a panel's row */
    int16_t *mean;          /* [K], M */
    int8_t *m;              /* [K] */
    int32_t *score_bias;    /* [C], hidden layers */
    int64_t *start;         /* [N], S */
    int32_t *start_lanes;   /* S by panel and lane, modulo 2^32 */
    uint32_t *row_zeros;    /* [K + 1], zeros of V's rows */
    uint32_t *column_zeros; /* [N], of V's columns, rows 0 .. K-1; rule bp */
} sppim_state;

/* Lists of the non-zeros of some images (sppim_nonzeros). */
typedef struct sppim_list {
    uint16_t *index; /* [n][ld] */
    uint8_t *value;
    int16_t *value16;
    uint32_t *negatives, *count; /* [n] */
    size_t ld;
} sppim_list;

enum { SPPIM_SAT_ACC, SPPIM_SAT_ACTIVATION, SPPIM_SAT_ERROR, SPPIM_SAT_DELTA, SPPIM_SAT_WEIGHT, SPPIM_SATS };

typedef struct sppim_layer {
    sppim_layer_config config;
    sppim_shape shape;
    sppim_place place;
    size_t k, n, classes;
    size_t panels, groups; /* of N columns */
    size_t depth;          /* K + 1 rounded up to SPPIM_DEPTH */
    size_t ld;             /* distance of two images in arrays of this layer's errors: N rounded up to 64 */
    bool bytes;            /* products of bytes: at most 8 bits, and no accumulator that can overflow; quads and rows */
    bool fp_finite, gc_finite; /* the accumulators can overflow (A1.6) */
    bool in_place;         /* next's weights are now's: the update is too short to be interrupted */
    bool skipping;         /* the last forward skipped zeros: the update keeps rows or words up to date, not quads */
    sppim_state now, next; /* read in a tick; written in a tick, taken over at its end */
    bool updated;          /* next is to be taken over */
    uint8_t *codes;        /* [C][N], hidden layers */
    int8_t *project;       /* R transposed, quads: panels of C columns, N deep */
    int8_t *back_project;  /* R, quads: panels of N columns, C deep */
    int32_t *back_start;   /* -128 times the sums of R's columns, by panel and lane (SPPIM_SIGNED) */
    int8_t *e;             /* [batch][class_ld] class errors */
    size_t class_ld;
    int8_t *d;             /* [batch][ld] errors */
    uint32_t *column_nonzeros; /* [K rounded up to 64], of the batch in FP */
    int32_t *error_sum;    /* [ld] D */
    uint32_t *error_column_nonzeros; /* [ld] */
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
    int8_t **x;         /* [layers]: the layer's inputs [batch][x_ld], zeros beyond K */
    int32_t **x_sum;    /* [layers]: [x_ld] X */
    atomic_bool negative; /* some input of the first layer is; activations are not */
    int64_t *scores;    /* [batch][C] */
    uint32_t *input_nonzeros, *error_nonzeros; /* [layers][n] */
} sppim_flight;

/* What one thread needs for itself. */
typedef struct sppim_scratch {
    int32_t *sums;     /* [SPPIM_BLOCK_ROWS][SPPIM_GROUP] */
    int64_t *wide;     /* the same in 64 bits */
    int32_t *gradient; /* [SPPIM_GRADIENT_CELLS], of some rows and columns */
    uint16_t *index;   /* [batch rounded up to 64, + 72], the non-zeros of one input over the batch */
    uint8_t *value;
    int16_t *value16;
} sppim_scratch;

#define SPPIM_BLOCK_ROWS ((size_t)64)
#define SPPIM_GRADIENT_CELLS ((size_t)4096)

/* What the phases of a layer leave to each other within a tick; as large as the largest layer needs. */
typedef struct sppim_workspace {
    sppim_list list;      /* FP; the fold */
    int16_t *x16;         /* FP: inputs as 16-bit words */
    int8_t *zeros;        /* [depth] */
    int32_t *signed_start; /* FP: S - 128 times the column sums of V, by panel and lane (SPPIM_SIGNED) */
    int8_t *x_columns;    /* GC: inputs by column [K + 1 ..][batch_ld] of the images with errors */
    uint16_t *active;     /* [batch] images with errors */
    int8_t *d_quads, *d_rows; /* their errors, packed */
    int16_t *d_pairs;
    int32_t *d_lanes;     /* D by panel and lane */
    int32_t *d_scale;     /* [depth] what D counts in the gradient of a row */
    int16_t *x_row, *d_row; /* a single image: x - m by row, d by panel and lane, */
    uint16_t *pair;       /* the pairs of rows that it changes */
    int8_t *fold;         /* (m, -64) */
    int16_t *fold16;      /* (-m, 64) */
    size_t batch_ld;
} sppim_workspace;

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
    sppim_workspace work;
    sppim_scratch *scratch; /* [threads] */

    uint64_t ticks, batches;
    atomic_flag busy;
};

static inline size_t sppim_input_ld(const sppim_layer *layer) { return sppim_round_up(layer->k, SPPIM_GROUP); }

/* Element of the layouts "pairs" and "quads" of a layer: row k, column n. */
static inline size_t sppim_pair_place(const sppim_layer *layer, size_t k, size_t n)
{
    return n / SPPIM_PANEL * layer->depth * SPPIM_PANEL + sppim_in_pairs(k, sppim_column_lane(n % SPPIM_PANEL));
}

/* x of a layer as the kernels take it. */
static inline int sppim_input_flip(const sppim_flight *flight, size_t l)
{
    return flight->negative && l == 0 ? SPPIM_SIGNED : SPPIM_UNSIGNED;
}

/* V of a state, whatever layouts it has. */
static inline int sppim_product_weight_at(const sppim_layer *layer, const sppim_state *s, size_t k, size_t n)
{
    return (int)sppim_product_weight(s->w[sppim_pair_place(layer, k, n)], layer->config.product_bits);
}

/* How many pairs of 16-bit products an s32 sum is exact for: |x| <= 128, |v| <= 2^(bits-1) - 1. */
static inline size_t sppim_exact_steps(const sppim_layer *layer)
{
    return (size_t)INT32_MAX / (2 * (((size_t)128 << (layer->config.product_bits - 1)) - 128));
}

/* Each returns false if interrupted. */

/* Facts about x[l] of a flight: non-zeros by image, signs. */
bool sppim_survey_inputs(sppim_network *network, size_t l, sppim_flight *flight);
/* FP of a layer (A5): reads flight->x[l], writes flight->x[l + 1] and its facts, or flight->scores. */
bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight);
/* EP of a layer (A6) into layer->e and layer->d. The layers above have had theirs in this tick. */
bool sppim_layer_errors(sppim_network *network, size_t l, sppim_flight *flight);
/* GC and update of a layer (A7) into layer->next. No layer reads the weights of another any more in this tick. */
bool sppim_layer_update(sppim_network *network, size_t l, sppim_flight *flight);
/* S and the zero counts of a state from its V and m. */
bool sppim_layer_derive(sppim_network *network, size_t l, sppim_state *state);
/* The layout of the present state that a forward with or without skipping reads, if it lacks it. */
bool sppim_layer_repack(sppim_network *network, size_t l, bool skip);
/* V, m, S and the zero counts of the present state from its W and M; not interruptible. */
void sppim_layer_complete(sppim_network *network, size_t l);

#endif
