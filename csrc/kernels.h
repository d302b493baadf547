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

/* Where the 32 sums of a panel begin: scale column[lane], a scale for each row; null pointers mean 0 and 1. */
typedef struct sppim_start {
    const int32_t *column; /* [32], by lane */
    const int32_t *scale;
} sppim_start;

/* Operands are unsigned, as activations are; signed ones become so by x ^ SPPIM_SIGNED = x + 128, and the start
 * undoes that. */
enum { SPPIM_UNSIGNED = 0, SPPIM_SIGNED = 128 };

/* Non-zeros of a row, padded with zero values to a multiple of 4. Bytes are magnitudes: first those that count as
 * negative. */
typedef struct sppim_nonzeros {
    const uint16_t *index;
    const uint8_t *value;   /* bytes, or the lower bytes of words */
    const uint8_t *high;    /* the higher bytes of words */
    const int16_t *value16; /* words with their signs */
    size_t negatives;       /* of value and high; padded, too */
    size_t count;           /* of all, padding included */
} sppim_nonzeros;

/* Which values become a list: all non-zeros as they are, or the magnitudes of those of one sign. */
enum { SPPIM_ALL, SPPIM_NEGATIVE, SPPIM_POSITIVE };

/* How weights are updated (A7.3, A5.2), and where the results go. Null: not wanted. */
typedef struct sppim_update {
    int shift, round;
    uint32_t k0, k1; /* key of the stochastic rounding */
    int product_bits;
    size_t columns; /* N: distance of two rows in the index of the random numbers */
    bool narrow;    /* known: every |gradient| >> shift < 2^15 - 1; for update_outer_s16 |gradient| + 2^shift < 2^15 */
} sppim_update;

typedef struct sppim_update_rows { /* rows k0 .. of one panel, k0 a multiple of 4 */
    const int16_t *w;    /* pairs */
    int16_t *w_next;     /* pairs; may be w */
    int8_t *quads;       /* product weights, as quads, */
    int8_t *rows;        /* as rows (the panel's half of the group), */
    int16_t *pairs;      /* as pairs, */
    int16_t *words;      /* as words (the panel's half of the group) */
    uint8_t *zeros;      /* per row: zero product weights among the 32 */
} sppim_update_rows;

typedef struct sppim_kernels {
    const char *name;

    /* Index and value of the non-zeros of x[count] that `which` names; returns how many. Writes up to 64 more
     * places. */
    size_t (*compress_s8)(const int8_t *x, size_t count, int which, uint16_t *index, uint8_t *value);
    size_t (*compress_s16s8)(const int16_t *x, size_t count, int which, uint16_t *index, uint8_t *value, uint8_t *high);
    /* The same for all non-zeros of words. */
    size_t (*compress_s16)(const int16_t *x, size_t count, uint16_t *index, int16_t *value);
    /* Number of non-zeros of x[count]; the bits of all values or'ed into *bits. */
    size_t (*census_s8)(const int8_t *x, size_t count, uint8_t *bits);
    /* Number of non-zeros of x[count]; *low and *high become the extremes of x and of what they were. */
    size_t (*census_s16)(const int16_t *x, size_t count, int16_t *low, int16_t *high);
    /* Per column of x[rows][ld]: adds the sum, and the number of non-zeros. columns a multiple of 64, rows <= 255. */
    void (*tally_s8)(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum, uint32_t *nonzeros);
    /* out[c * ld_out + i] = x[row[i] * ld + c] for i < rows; zeros up to the next multiple of 16 of rows. columns a
     * multiple of 64. */
    void (*transpose_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns, int8_t *out,
                         size_t ld_out);
    /* Packs 64 columns of rows row[i] of x: two panels of quads (quad_stride apart), or null, and one group of rows,
     * or null; depth = rows rounded up to 4. */
    void (*pack_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, int8_t *quads, size_t quad_stride,
                    int8_t *out_rows);

    /* out[r * ld_out + place] = start + sum over i < 4 * steps of (x[r * ld + i] ^ flip) quad[i], modulo 2^32, one
     * panel, where x ^ flip counts as unsigned. flip: SPPIM_UNSIGNED, SPPIM_SIGNED. */
    void (*product_s8)(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                       sppim_start start, int32_t *out, size_t ld_out, int order);
    /* out[r * ld_out + column] = start[column], or if null what it was, + 2^shift sum over i < 2 * steps of x[r * ld
     * + i] pair[i], one panel. The sums themselves must fit 32 bits; 0 <= shift <= 16. */
    void (*product_s16)(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int shift,
                        const int64_t *start, int64_t *out, size_t ld_out);
    /* out[64 * g + place] = start + sum over non-zeros of +-value row, modulo 2^32, for each of `groups` groups,
     * group_stride apart (panel by panel within each). start has 64 columns a group and one scale. */
    void (*product_sparse_s8)(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups, sppim_start start,
                              int32_t *out, int order);
    /* out[64 * g + column] = sum over non-zeros of +-(256 high + value) row. Both parts of the sum must fit 32 bits. */
    void (*product_sparse_s16s8)(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups, int64_t *out);
    /* out[64 * g + column] = start[64 * g + column], or if null what it was, + sum over non-zeros of value16 word; the
     * sums themselves must fit 32 bits. */
    void (*product_sparse_s16)(sppim_nonzeros x, const int16_t *words, size_t group_stride, size_t groups,
                               const int64_t *start, int64_t *out);
    /* acc[lane] += sum over non-zeros of value16 pair, one panel,
     * with a finite accumulator, in ascending order (A5.4): returns how often fit changed a value. */
    uint64_t (*product_finite_s16)(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator, int32_t *acc);

    /* A5.5 with rnu, shift <= 31: 32 sums by lane to 32 activations by column; returns the number of values above
     * hi. */
    size_t (*requantize_relu_s32)(const int32_t *acc, int shift, int hi, int8_t *y);
    /* The same for 64-bit sums by column, any shift and rounding of A1.1. */
    size_t (*requantize_relu_s64)(const int64_t *acc, int shift, int round, int hi, int8_t *y);
    /* End of A6.6, shift <= 31: d = requantized sum where y > 0, else 0; returns the number of saturated values. */
    size_t (*gate_s32)(const int32_t *acc, const int8_t *y, int shift, int8_t *d);

    /* A7.3, A5.2: `rows` (a multiple of 4) rows of one panel; gradient[rows][ld] by lane, index of its first weight
     * in the layer. Returns the number of clipped weights. */
    size_t (*update_s16)(const sppim_update *update, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                         sppim_update_rows panel);
    /* The same for a single image: gradient[r][lane] = row[r] error[lane], |row| <= 255, |error| <= 127. Only for
     * the rows 2 i and 2 i + 1 of each pair i, ascending; where quads are wanted, pairs come by twos, 2 j and 2 j +
     * 1. */
    size_t (*update_outer_s16)(const sppim_update *update, const int16_t *row, const int16_t *error, const uint16_t *pair,
                               size_t pairs, uint32_t index, sppim_update_rows panel);
} sppim_kernels;

/* The same panel from `row` rows further on. */
static inline sppim_update_rows sppim_further_rows(sppim_update_rows panel, size_t row)
{
    panel.w += row * SPPIM_PANEL;
    panel.w_next += row * SPPIM_PANEL;
    panel.zeros += row;
    panel.quads = panel.quads ? panel.quads + row * SPPIM_PANEL : NULL;
    panel.rows = panel.rows ? panel.rows + row * SPPIM_GROUP : NULL;
    panel.pairs = panel.pairs ? panel.pairs + row * SPPIM_PANEL : NULL;
    panel.words = panel.words ? panel.words + row * SPPIM_GROUP : NULL;
    return panel;
}

/* Rows of the next tile of those that are left: tiles as equal as possible, so that none is too small to hide the
 * latency. */
static inline size_t sppim_next_tile(size_t rows, size_t most)
{
    return sppim_ceil_div(rows, sppim_ceil_div(rows, most));
}

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
