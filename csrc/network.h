/* The parts of a network: what network.c makes, tick.c moves, state.c shows, and the phases of a layer work on. */
#ifndef SPPIM_NETWORK_H
#define SPPIM_NETWORK_H

#include <stdatomic.h>
#include <stdbool.h>

#include "count.h"
#include "fixed.h"
#include "geometry.h"
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
    int16_t *mean;          /* [channels], M */
    int8_t *m;              /* [K] */
    bool signed_means;      /* some m is negative */
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
    size_t inputs, outputs, channels; /* values of an image going in and coming out; of a pixel going in */
    size_t positions, down, across; /* P, of the window */
    size_t pooled_size;    /* of what pooling leaves for EP, an image */
    size_t features;       /* F */
    bool windowed;         /* a convolution (A12); else the operands of the product are x as it is */
    sppim_tiling pooling;  /* of the positions; size 1: none */
    sppim_tiling scores;   /* of the output's pixels: features of the LEPU */
    sppim_uses uses;       /* of the input's pixels by the window */
    size_t panels, groups; /* of N columns */
    size_t depth;          /* K + 1 rounded up to SPPIM_DEPTH */
    size_t ld;             /* distance of two positions in arrays of errors: N rounded up to 64 */
    size_t out_ld;         /* distance of two images in arrays of outputs and their errors: outputs rounded up to 64 */
    size_t operand_ld;     /* distance of two positions' operands: K + 1 rounded up to 64 */
    bool bytes;            /* products of bytes: at most 8 bits, and no accumulator that can overflow; quads and rows */
    bool fp_finite, gc_finite; /* the accumulators can overflow (A1.6) */
    bool in_place;         /* next's weights are now's: the update is too short to be interrupted */
    bool skipping;         /* the last forward skipped zeros: the update keeps rows or words up to date, not quads */
    sppim_state now, next; /* read in a tick; written in a tick, taken over at its end */
    bool updated;          /* next is to be taken over */
    int8_t error_map[256]; /* A6.8, by the byte of an error */
    uint8_t *codes;        /* [C][F], hidden layers */
    int8_t *project;       /* R by outputs, transposed, quads: panels of C columns, outputs deep */
    int8_t *back_project;  /* R by outputs, quads: panels of outputs, C deep */
    int32_t *back_start;   /* -128 times the sums of R's columns, by panel and lane (SPPIM_SIGNED) */
    int8_t *e;             /* [batch][class_ld] class errors */
    size_t class_ld;
    int8_t *delta;         /* [batch][out_ld] errors of the outputs */
    uint32_t *value_nonzeros;  /* [inputs rounded up to 64], of the batch in FP */
    uint32_t *column_nonzeros; /* [K]: the same of the operands; fully connected: value_nonzeros */
    uint32_t *feature_nonzeros; /* [batch], non-zero features; hidden layers with a window */
    atomic_uint_fast64_t pairs; /* of a non-zero error and a non-zero operand; with a window */
    int32_t *error_sum;    /* [ld] D */
    uint32_t *error_column_nonzeros; /* [ld] */
    atomic_uint_fast64_t saturations[SPPIM_SATS];
    sppim_counters counters, counted; /* since creation; of this tick */
} sppim_layer;

/* A batch between entering and retiring. */
typedef struct sppim_flight {
    bool occupied;
    uint64_t batch;
    size_t n;
    int rate_shift;
    int32_t *labels;
    int8_t **x;         /* [layers]: the layer's inputs [batch][x_ld], zeros beyond them */
    uint8_t **pooled;   /* [layers]: what pooling leaves for EP (window.h) [batch][pooled_size] */
    int32_t **x_sum;    /* [layers]: [x_ld] X */
    atomic_bool negative; /* some input of the first layer is; activations are not */
    int64_t *scores;    /* [batch][C] */
    uint32_t *value_nonzeros; /* [layers][n], of x */
    uint32_t *input_nonzeros, *error_nonzeros; /* [layers][n], of the operands and of d */
} sppim_flight;

#define SPPIM_BLOCK_ROWS ((size_t)64)      /* of operands at a time: images or positions */
#define SPPIM_BACK_ROWS ((size_t)16)       /* the same on the way back (rule bp) */
#define SPPIM_GRADIENT_CELLS ((size_t)4096)
#define SPPIM_GRADIENT_TERMS ((size_t)4096) /* positions whose errors join the gradient at a time, if an image has fewer */

/* What one thread needs for itself. */
typedef struct sppim_scratch {
    int32_t *sums;     /* [SPPIM_BLOCK_ROWS][SPPIM_GROUP] */
    int64_t *wide;     /* the same in 64 bits */
    int32_t *gradient; /* [SPPIM_GRADIENT_CELLS], of some rows and columns */
    uint16_t *index;   /* [terms, and padding], the non-zeros of one operand over them */
    uint8_t *value;
    int16_t *value16;
    sppim_list list;   /* with a window: [SPPIM_BLOCK_ROWS] */
    int8_t *operands;  /* ... [SPPIM_BLOCK_ROWS][operand_ld] */
    int16_t *operands16;
    int8_t *outputs;   /* ... [P][ld], of one image: activations before pooling, or errors */
    int16_t *back_d;   /* rule bp: [SPPIM_BACK_ROWS][ld] errors, */
    int64_t *back;     /* [SPPIM_BACK_ROWS][K rounded up to 32] their products, */
    int64_t *map;      /* [inputs] their sums */
} sppim_scratch;

/* What the phases of a layer leave to each other within a tick; as large as the largest layer needs. Terms are those of
 * a gradient: the images of a batch, or the positions of some of its images. */
typedef struct sppim_workspace {
    sppim_list list;      /* FP without a window; the fold */
    int16_t *x16;         /* FP without a window: inputs as 16-bit words */
    int8_t *zeros;        /* [depth] */
    int32_t *signed_start; /* FP: S - 128 times the column sums of V, by panel and lane (SPPIM_SIGNED) */
    int8_t *x_columns;    /* GC: operands [K + 1 ..][terms_ld] of the terms with errors */
    size_t terms_ld;
    uint16_t *active;     /* [terms] those with errors */
    int8_t *d;            /* with a window: [terms][ld] errors of positions, */
    uint32_t *position_nonzeros; /* [terms], how many are not zero */
    int8_t *d_quads, *d_rows; /* the errors of active terms, packed */
    int16_t *d_pairs;
    int32_t *d_lanes;     /* D by panel and lane */
    int32_t *d_scale;     /* [depth] what D counts in the gradient of a row */
    int32_t *gradient;    /* with a window: [panels][depth][lanes], of the terms so far */
    int16_t *x_row, *d_row; /* a single image: x - m by row, d by panel and lane, */
    uint16_t *pair;       /* the pairs of rows that it changes */
    int8_t *fold;         /* (m, -64) */
    int16_t *fold16;      /* (-m, 64) */
    int16_t *back_pairs;  /* rule bp: V transposed, pairs: panels of K columns, N deep */
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

static inline size_t sppim_input_ld(const sppim_layer *layer) { return sppim_round_up(layer->inputs, SPPIM_GROUP); }

/* Element of the layouts "pairs" and "quads" of a layer: row k, column n. */
static inline size_t sppim_pair_place(const sppim_layer *layer, size_t k, size_t n)
{
    return n / SPPIM_PANEL * layer->depth * SPPIM_PANEL + sppim_in_pairs(k, sppim_column_lane(n % SPPIM_PANEL));
}

/* Operands of a layer as the kernels take them: those of padding are means. */
static inline int sppim_input_flip(const sppim_layer *layer, const sppim_flight *flight)
{
    const bool inputs = flight->negative && layer->place.first, means = layer->windowed && layer->now.signed_means;
    return inputs || means ? SPPIM_SIGNED : SPPIM_UNSIGNED;
}

/* Images whose terms join the gradient of a layer at a time. */
static inline size_t sppim_gradient_images(const sppim_network *network, const sppim_layer *layer)
{
    const size_t batch = (size_t)network->config.batch, most = SPPIM_GRADIENT_TERMS / layer->positions;
    return !layer->windowed || most > batch ? batch : most ? most : 1;
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
/* EP of a layer (A6) into layer->e and layer->delta. The layers above have had theirs in this tick. */
bool sppim_layer_errors(sppim_network *network, size_t l, sppim_flight *flight);
/* The same under rule bp (A6.5, A12.6) into layer->delta. */
bool sppim_layer_backpropagate(sppim_network *network, size_t l, sppim_flight *flight);
/* Whether errors of outputs and those of positions are the same. */
static inline bool sppim_errors_as_they_are(const sppim_layer *layer)
{
    return layer->positions == 1 && layer->config.pooling == SPPIM_POOLING_NONE;
}
/* d of one image [P][ld] (A12.5). */
void sppim_layer_spread(const sppim_layer *layer, const sppim_flight *flight, size_t l, size_t b, int8_t *d);
/* GC and update of a layer (A7) into layer->next. No layer reads the weights of another any more in this tick. */
bool sppim_layer_update(sppim_network *network, size_t l, sppim_flight *flight);
/* S and the zero counts of a state from its V and m. */
bool sppim_layer_derive(sppim_network *network, size_t l, sppim_state *state);
/* The layout of the present state that a forward with or without skipping reads, if it lacks it. */
bool sppim_layer_repack(sppim_network *network, size_t l, bool skip);
/* V, m, S and the zero counts of the present state from its W and M; not interruptible. */
void sppim_layer_complete(sppim_network *network, size_t l);

#endif
