/* Windows over an image (A11.3, A12): the operands of its positions, pooling, and how often pixels are read. */
#ifndef SPPIM_WINDOW_H
#define SPPIM_WINDOW_H

#include "kernels.h"
#include "sppim.h"

/* Operands of positions first .. first + count - 1 of an image, `ld` apart. pad: [columns][channels], what is read
 * outside the image; null: zeros. across: positions in a row. */
void sppim_unfold_positions(const sppim_window *window, size_t across, const int8_t *image, const int8_t *pad, size_t first,
                            size_t count, int8_t *out, size_t ld);
/* Adds operand[rows][columns][channels], of one position, to what it was read from; what padding gave is dropped. */
void sppim_fold_position(const sppim_window *window, size_t across, const int64_t *operand, size_t position, int64_t *map);

/* How often the window reads the rows and columns of pixels: pixel (h, w) rows[h] times columns[w]. */
typedef struct sppim_uses {
    uint32_t *rows, *columns;
    uint64_t inside; /* of all pixels */
} sppim_uses;

void sppim_count_uses(const sppim_window *window, size_t down, size_t across, sppim_uses *uses);
/* Non-zero operands of one image, without padding. */
uint64_t sppim_count_operands(const sppim_kernels *kernels, const sppim_window *window, const sppim_uses *uses,
                              const int8_t *image);
/* Per operand k: how often it is non-zero over all positions, if a pixel's value is so value_nonzeros[(h, w, c)] times
 * and padding n times where pad[c] is not zero. Window row r, column s: fills the channels. */
void sppim_count_columns(const sppim_window *window, size_t down, size_t across, const uint32_t *value_nonzeros,
                         const int8_t *pad, uint32_t n, size_t r, size_t s, uint32_t *nonzeros);

/* Squares side by side over `height` x `width` pixels; the last ones may be smaller, or left out. */
typedef struct sppim_tiling {
    size_t height, width, size;
    size_t down, across;
} sppim_tiling;

/* Pooling (A12.3) of an image's activations a[positions][ld] to y[down][across][n]. keep: what sppim_spread_errors
 * wants to know. */
void sppim_pool_image(const sppim_tiling *tiling, int pooling, const int8_t *a, size_t ld, size_t n, int8_t *y,
                      uint8_t *keep);
/* Bytes of `keep` an image. */
size_t sppim_pool_memory(const sppim_tiling *tiling, int pooling, size_t n);
/* A12.5: errors of positions d[positions][ld] from those of outputs; columns n .. ld - 1 become 0. */
void sppim_spread_errors(const sppim_tiling *tiling, int pooling, const int8_t *delta, const uint8_t *keep, size_t n,
                         int8_t *d, size_t ld);

#endif
