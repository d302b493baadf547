/* How weights lie in memory (CONTRIBUTING.md, "Panels"): every kernel reads them as they are, training packs nothing.
 *
 * A panel is SPPIM_PANEL columns wide and `depth` rows deep, depth a multiple of SPPIM_DEPTH; rows beyond the last are zero.
 *   pairs  s16 [depth / 2][32 lanes][2]   operands of 16-bit dot products
 *   quads  s8  [depth / 4][32 lanes][4]   operands of 8-bit dot products
 * and, two panels side by side, a group, what zero skipping gathers from:
 *   rows   s8  [depth][64 columns]
 *   words  s16 [depth][64 columns]
 * Lanes are a fixed permutation of the columns, the one that interleaving bytes and packing sums give for free. */
#ifndef SPPIM_PANEL_H
#define SPPIM_PANEL_H

#include <stddef.h>
#include <stdint.h>

#define SPPIM_PANEL ((size_t)32) /* columns */
#define SPPIM_DEPTH ((size_t)4)  /* rows of a panel are a multiple of this */
#define SPPIM_GROUP ((size_t)64) /* columns of the layouts "rows" and "words" */

static inline size_t sppim_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t sppim_round_up(size_t a, size_t b) { return sppim_ceil_div(a, b) * b; }
static inline size_t sppim_smaller(size_t a, size_t b) { return a < b ? a : b; }

static inline size_t sppim_larger(size_t a, size_t b) { return a > b ? a : b; }

/* Column of the panel whose sum is in lane 0..31, and back. */
static inline size_t sppim_lane_column(size_t lane) { return lane % 16 / 4 * 8 + lane / 16 * 4 + lane % 4; }
static inline size_t sppim_column_lane(size_t column) { return column / 4 % 2 * 16 + column / 8 * 4 + column % 4; }

/* Place of a column of a layer among the lanes of all its panels. */
static inline size_t sppim_lane_of(size_t column)
{
    return column / SPPIM_PANEL * SPPIM_PANEL + sppim_column_lane(column % SPPIM_PANEL);
}

/* Places of row k, lane or column, within one panel or group. */
static inline size_t sppim_in_pairs(size_t k, size_t lane) { return (k / 2 * SPPIM_PANEL + lane) * 2 + k % 2; }
static inline size_t sppim_in_quads(size_t k, size_t lane) { return (k / 4 * SPPIM_PANEL + lane) * 4 + k % 4; }
static inline size_t sppim_in_rows(size_t k, size_t column) { return k * SPPIM_GROUP + column; }

#endif
