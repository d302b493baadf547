/* What the products of a network and those on their own share: when skipping zeros pays, lists of non-zeros, and sums of
 * words beyond 32 bits. */
#ifndef SPPIM_PRODUCTS_H
#define SPPIM_PRODUCTS_H

#include <string.h>

#include "kernels.h"

/* ---- when skipping zeros pays (docs/kernels.md) ------------------------------------------------------------------ */

/* What skips zeros works on groups of columns, what does not on panels: an odd number of panels wastes half a group. */
static inline size_t sppim_groups_of(size_t panels) { return sppim_ceil_div(panels, SPPIM_GROUP / SPPIM_PANEL); }

/* Products that can skip zeros: by the bits of operands and weights. */
enum { SPPIM_S8_BY_S8, SPPIM_S16_BY_S8, SPPIM_S16_BY_S16 };

/* Whether lists of non-zeros make a product of `rows` rows with so many panels of weights faster: if they do so
 * below a density, in percent, for whole groups, and four or more rows, which share the weights that they load; two
 * or three; one. */
static inline bool sppim_product_skips(int kind, size_t rows, size_t panels, uint64_t values, uint64_t nonzeros)
{
    static const unsigned crossover[][3] = {{40, 50, 90}, {67, 90, 99}, {45, 67, 90}};
    return 200 * sppim_groups_of(panels) * nonzeros < crossover[kind][rows >= 4 ? 0 : rows >= 2 ? 1 : 2] * panels * values;
}

/* The same for a gradient over so many images. In quarters of a cycle, a row of it costs 2 an image and panel, or 80,
 * and 36 a group, and 9 a non-zero and group. */
static inline bool sppim_gradient_skips(size_t panels, size_t images, size_t inputs, uint64_t nonzeros)
{
    const size_t groups = sppim_groups_of(panels);
    return (80 + 36 * groups) * inputs + 9 * groups * nonzeros < 2 * panels * (uint64_t)images * inputs;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

#define SPPIM_SPAN ((size_t)4) /* groups of columns that one reading of a list serves, at most */

/* So many that their weights stay in the second-level cache. */
static inline size_t sppim_list_span(size_t depth, size_t weight_size)
{
    const size_t most = ((size_t)512 << 10) / (depth * SPPIM_GROUP * weight_size);
    return sppim_larger(1, sppim_smaller(SPPIM_SPAN, most));
}

/* Appends zero values to a list of bytes until it is a multiple of 4 long; returns its new length. Always writes
 * four, where compressing may have written, too: a loop over so few would be mispredicted as often as not. */
static inline size_t sppim_pad_nonzeros(uint16_t *index, uint8_t *value, size_t count)
{
    memset(index + count, 0, SPPIM_DEPTH * sizeof *index);
    memset(value + count, 0, SPPIM_DEPTH);
    return sppim_round_up(count, SPPIM_DEPTH);
}

/* The list of the non-zeros of x[count]: as they are, or, if flip is SPPIM_SIGNED, by sign. Writes up to 64 places more,
 * and twice the padding. */
static inline sppim_nonzeros sppim_list_s8(const sppim_kernels *kernels, const int8_t *x, size_t count, int flip,
                                           uint16_t *index, uint8_t *value)
{
    sppim_nonzeros list = {.index = index, .value = value};
    if (flip == SPPIM_SIGNED)
        list.negatives = sppim_pad_nonzeros(index, value, kernels->compress_s8(x, count, SPPIM_NEGATIVE, index, value));
    index += list.negatives;
    value += list.negatives;
    const int rest = flip == SPPIM_SIGNED ? SPPIM_POSITIVE : SPPIM_ALL;
    list.count = list.negatives + sppim_pad_nonzeros(index, value, kernels->compress_s8(x, count, rest, index, value));
    return list;
}

/* ---- sums of words: as many terms at a time as 32 bits hold ------------------------------------------------------ */

/* product_s16 over steps that 32 bits need not hold; most: how many they do. */
static inline void sppim_product_words(const sppim_kernels *kernels, const int16_t *x, size_t ld, size_t rows, size_t steps,
                                       size_t most, const int16_t *pairs, int shift, const int64_t *start, int64_t *out,
                                       size_t ld_out)
{
    for (size_t step = 0; step < steps; step += most)
        kernels->product_s16(x + 2 * step, ld, rows, sppim_smaller(most, steps - step), pairs + 2 * step * SPPIM_PANEL,
                             shift, step ? NULL : start, out, ld_out);
}

/* product_sparse_s16 over a list that 32 bits need not hold; steps: how many pairs of non-zeros they do. */
static inline void sppim_product_sparse_words(const sppim_kernels *kernels, sppim_nonzeros x, size_t steps,
                                              const int16_t *words, size_t group_stride, size_t groups,
                                              const int64_t *start, int64_t *out)
{
    const size_t most = 2 * steps / SPPIM_DEPTH * SPPIM_DEPTH;
    for (size_t i = 0; i == 0 || i < x.count; i += most)
        kernels->product_sparse_s16((sppim_nonzeros){.index = x.index + i, .value16 = x.value16 + i,
                                                     .count = sppim_smaller(most, x.count - i)},
                                    words, group_stride, groups, i ? NULL : start, out);
}

#endif
