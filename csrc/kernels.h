/* The kernel table: one field per operation, one table per instruction-set level.
 *
 * A kernel is one operation on arrays. It knows neither chip nor counters, validates nothing and cannot fail.
 * Every level gives the bits of "ref" (ref.c); a level that has nothing better for an operation keeps the
 * field of the level below it. Weights lie in the panels of panel.h. */
#ifndef SPPIM_KERNELS_H
#define SPPIM_KERNELS_H

#include <stdbool.h>

#include "panel.h"
#include "sppim.h"

/* Order of the 32 sums of a panel in memory: as the kernels hold them, or by column. */
enum { SPPIM_LANES, SPPIM_COLUMNS };

/* Where sums begin: scale[r] column[lane] + shift[r] for row r; null pointers mean 0, 1 and 0. */
typedef struct sppim_start {
    const int32_t *column; /* [32], by lane */
    const int32_t *scale, *shift;
} sppim_start;

/* Non-zeros of a row, padded with zero values to a multiple of 4. */
typedef struct sppim_nonzeros {
    const uint16_t *index; /* ascending */
    const int8_t *value;   /* 8-bit kernels */
    const int8_t *high;    /* second byte plane of 16-bit values, or null */
    const int16_t *value16; /* 16-bit kernels */
    size_t count;          /* padding included */
} sppim_nonzeros;

/* Pads a list of `count` non-zeros with zero values of a row that is there; returns its new length. */
static inline size_t sppim_pad_nonzeros(uint16_t *index, int8_t *value, size_t count, size_t row)
{
    for (; count % SPPIM_DEPTH; count++) {
        index[count] = (uint16_t)row;
        value[count] = 0;
    }
    return count;
}

/* How weights are updated (A7.3, A5.2), and where the results go. Null: not wanted. */
typedef struct sppim_update {
    int shift, round;
    uint32_t k0, k1; /* key of the stochastic rounding */
    int product_bits;
    size_t columns; /* N: distance of two rows in the index of the random numbers */
    bool narrow;    /* every |gradient| >> shift is known to be below 2^15 - 1 */
} sppim_update;

typedef struct sppim_update_rows { /* rows k0 .. of one panel, k0 a multiple of 4 */
    const int16_t *w;    /* pairs */
    int16_t *w_next;     /* pairs; may be w */
    uint8_t *quads;      /* product weights, as quads, */
    uint8_t *rows;       /* as rows (the panel's half of the group), */
    int16_t *pairs;      /* as pairs */
    uint8_t *zeros;      /* per row: zero product weights among the 32 */
} sppim_update_rows;

typedef struct sppim_kernels {
    const char *name;

    /* Index and value of the non-zeros of x[count], index counted from base; returns how many. Writes up to 64 more places. */
    size_t (*compress_s8)(const int8_t *x, size_t count, size_t base, uint16_t *index, int8_t *value);
    size_t (*compress_s16)(const int16_t *x, size_t count, size_t base, uint16_t *index, int16_t *value);
    /* out = the 32 sums of each panel, which are by lane, by column; out may be lanes. */
    void (*columns_s32)(const int32_t *lanes, size_t panels, int32_t *out);
    /* Number of non-zeros of x[count]; their sum. */
    size_t (*census_s8)(const int8_t *x, size_t count, int32_t *sum);
    /* Per column of x[rows][ld]: adds the sum, and the number of non-zeros. columns a multiple of 64, rows <= 255. */
    void (*tally_s8)(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum, uint32_t *nonzeros);
    /* out[c * ld_out + i] = x[row[i] * ld + c] for i < rows; zeros up to the next multiple of 16 of rows. columns a
     * multiple of 64. */
    void (*transpose_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns, int8_t *out,
                         size_t ld_out);
    /* Packs 64 columns of rows row[i] of x: two panels of quads (quad_stride apart) and one group of rows, depth = rows
     * rounded up to 4. */
    void (*pack_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, uint8_t *quads, size_t quad_stride,
                    uint8_t *out_rows);

    /* out[r * ld_out + place] = start + sum over i < 4 * steps of x[r * ld + i] (quad - 128)[i], modulo 2^32, one panel; needs
     * start.shift to contain -128 times the sum of row r of x, which undoes the offset. */
    void (*product_s8)(const int8_t *x, size_t ld, size_t rows, size_t steps, const uint8_t *quads, sppim_start start,
                       int32_t *out, size_t ld_out, int order);
    /* out = sum over i < 2 * steps of x[r * ld + i] pair[i], modulo 2^32. */
    void (*product_s16)(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int32_t *out,
                        size_t ld_out, int order);
    /* acc[64 * g + lane] += sum over non-zeros of value stored byte, for each of `groups` groups of rows, group_stride apart (panel by
     * panel in lanes); the same with x.high into acc_high. */
    void (*product_sparse_s8)(sppim_nonzeros x, const uint8_t *rows, size_t group_stride, size_t groups, int32_t *acc,
                              int32_t *acc_high);
    /* acc[lane] += sum over non-zeros of value16 pair, one panel, modulo 2^32. */
    void (*product_sparse_s16)(sppim_nonzeros x, const int16_t *pairs, int32_t *acc);
    /* The same with a finite accumulator, in ascending order (A5.4): returns how often fit changed a value. */
    uint64_t (*product_finite_s16)(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator, int32_t *acc);

    /* A5.5 with rnu, shift <= 31: 32 sums by lane to 32 activations by column; returns the number of values above hi. */
    size_t (*requantize_relu_s32)(const int32_t *acc, int shift, int hi, int8_t *y);
    /* The same for 64-bit sums by column, any shift and rounding of A1.1. */
    size_t (*requantize_relu_s64)(const int64_t *acc, int shift, int round, int hi, int8_t *y);
    /* acc[i] += sum[i], count a multiple of 32. */
    void (*widen_s32)(const int32_t *sum, size_t count, int64_t *acc);
    /* End of A6.6, shift <= 31: d = requantized sum where y > 0, else 0; returns the number of saturated values. */
    size_t (*gate_s32)(const int32_t *acc, const int8_t *y, int shift, int8_t *d);

    /* A7.3, A5.2: `rows` (a multiple of 4) rows of one panel; gradient[rows][ld] by lane, index of its first weight in the
     * layer. Returns the number of clipped weights. */
    size_t (*update_s16)(const sppim_update *update, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                         sppim_update_rows panel);
} sppim_kernels;

/* Fills the whole table. */
void sppim_kernels_install_ref(sppim_kernels *table);
/* Each overwrites the fields that its instructions do better. */
void sppim_kernels_install_avx2(sppim_kernels *table);
void sppim_kernels_install_avx512(sppim_kernels *table);
void sppim_kernels_install_vnni(sppim_kernels *table);
void sppim_kernels_install_neon(sppim_kernels *table);

/* The table of a level; name null: of sppim_isa_default(). Null if it is unknown or not usable here. */
const sppim_kernels *sppim_kernels_find(const char *name);

#endif
