/* The kernel table: one field per operation, one table per instruction-set level.
 *
 * A kernel is one operation on arrays. It knows neither chip nor counters, validates nothing and cannot fail.
 * Every level gives the bits of "ref" (ref.c); a level that has nothing better for an operation keeps the
 * field of the level below it. */
#ifndef SPPIM_KERNELS_H
#define SPPIM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "sppim.h"

/* Weight arrays are visited in tiles; a tile's gradient (64 KiB) stays in the first-level caches. */
#define SPPIM_TILE_ROWS 64
#define SPPIM_TILE_COLUMNS 256

/* Non-zero values of a vector: ascending index, value. */
typedef struct sppim_nonzeros {
    const uint16_t *index;
    const int8_t *value;
    size_t count;
} sppim_nonzeros;

/* How a weight is updated (A7.3). */
typedef struct sppim_update {
    int shift, round;
    uint32_t k0, k1; /* key of the stochastic rounding */
    int product_bits;
} sppim_update;

typedef struct sppim_kernels {
    const char *name;

    /* Writes index and value of the non-zeros of x[count] (index counted from base); returns how many. */
    size_t (*compress_s8)(const int8_t *x, size_t count, size_t base, uint16_t *index, int8_t *value);

    /* acc[j] += sum over i of x[i] v[i * stride + j], columns <= SPPIM_TILE_COLUMNS; s32 sums are exact over `exact` terms. */
    void (*product_s8_s16)(const int8_t *x, size_t count, const int16_t *v, size_t stride, size_t columns,
                           size_t exact, int64_t *acc);
    /* The same over non-zeros; row i of v belongs to index i. */
    void (*product_sparse_s8_s16)(sppim_nonzeros x, const int16_t *v, size_t stride, size_t columns,
                                  size_t exact, int64_t *acc);
    /* The same with a finite accumulator, in ascending order (A5.4); returns how often fit changed a value. */
    uint64_t (*product_finite_s8_s16)(sppim_nonzeros x, const int16_t *v, size_t stride, size_t columns,
                                      sppim_accumulator accumulator, int64_t *acc);

    /* A5.5; returns the number of values above hi. */
    size_t (*requantize_relu_s64_s8)(const int64_t *acc, size_t count, int shift, int round, int hi,
                                     int8_t *y);

    /* A6.3: score of one class, the sum of x[i] times the power of two of code[index[i]]. */
    int64_t (*project_s8_pot)(sppim_nonzeros x, const uint8_t *code);
    /* A6.6: sum[j] += e times the power of two of code[j]. */
    void (*back_project_s8_pot)(int8_t e, const uint8_t *code, size_t columns, int32_t *sum);

    /* A7.1: gradient[index_x * SPPIM_TILE_COLUMNS + index_d] += x d; the indices count from row0, column0. */
    void (*gradient_s8_s8)(sppim_nonzeros x, size_t row0, sppim_nonzeros d, size_t column0, int32_t *gradient);
    /* The same with a finite accumulator; returns how often fit changed a value. */
    uint64_t (*gradient_finite_s8_s8)(sppim_nonzeros x, size_t row0, sppim_nonzeros d, size_t column0,
                                      sppim_accumulator accumulator, int32_t *gradient);

    /* A7.3, A5.2: one row of weights; `first` is the index of w[0] in the layer. Returns the number of clipped weights. */
    size_t (*update_s16)(const int16_t *w, const int32_t *gradient, size_t columns, uint32_t first,
                         const sppim_update *update, int16_t *w_next, int16_t *v_next);
} sppim_kernels;

/* Fills the whole table. */
void sppim_kernels_install_ref(sppim_kernels *table);
/* Overwrites the fields that AVX2 does better; x86-64 only. */
void sppim_kernels_install_avx2(sppim_kernels *table);

/* The table of a level; name null: of sppim_isa_default(). Null if it is unknown or not usable here. */
const sppim_kernels *sppim_kernels_find(const char *name);

#endif
