/* Pooling (A12.3), and errors on their way back through it (A12.5). */
#include <string.h>

#include "fixed.h"
#include "window.h"

/* Position p of the square of output (i, j). */
static size_t position_of(const sppim_tiling *t, size_t i, size_t j, size_t p)
{
    return (i * t->size + p / t->size) * t->width + j * t->size + p % t->size;
}

size_t sppim_pool_memory(const sppim_tiling *t, int pooling, size_t n)
{
    switch (pooling) {
    case SPPIM_POOLING_MAX: return t->down * t->across * n;
    case SPPIM_POOLING_MEAN: return t->height * t->width * n;
    default: return 0;
    }
}

/* y becomes the larger of itself and a, and best that position's place in its square. */
static void take_larger(const int8_t *restrict a, size_t n, uint8_t place, int8_t *restrict y, uint8_t *restrict best)
{
    for (size_t c = 0; c < n; c++) {
        const int8_t larger = (int8_t)-(a[c] > y[c]); /* all bits or none: no branch */
        y[c] = (int8_t)((a[c] & larger) | (y[c] & ~larger));
        best[c] = (uint8_t)((place & larger) | (best[c] & ~larger));
    }
}

static void pool_max(const sppim_tiling *t, const int8_t *a, size_t ld, size_t n, int8_t *y, uint8_t *best)
{
    for (size_t o = 0; o < t->down * t->across; o++, y += n, best += n) {
        const size_t i = o / t->across, j = o % t->across;
        memcpy(y, a + position_of(t, i, j, 0) * ld, n);
        memset(best, 0, n);
        for (size_t p = 1; p < t->size * t->size; p++)
            take_larger(a + position_of(t, i, j, p) * ld, n, (uint8_t)p, y, best);
    }
}

static void pool_mean(const sppim_tiling *t, const int8_t *a, size_t ld, size_t n, int8_t *y, uint8_t *keep)
{
    const int32_t area = (int32_t)(t->size * t->size);
    for (size_t p = 0; p < t->height * t->width; p++)
        memcpy(keep + p * n, a + p * ld, n);
    for (size_t o = 0; o < t->down * t->across; o++)
        for (size_t c = 0; c < n; c++) {
            int32_t sum = 0;
            for (size_t p = 0; p < (size_t)area; p++)
                sum += a[position_of(t, o / t->across, o % t->across, p) * ld + c];
            y[o * n + c] = (int8_t)((2 * sum + area) / (2 * area));
        }
}

void sppim_pool_image(const sppim_tiling *t, int pooling, const int8_t *a, size_t ld, size_t n, int8_t *y, uint8_t *keep)
{
    if (pooling == SPPIM_POOLING_MAX)
        pool_max(t, a, ld, n, y, keep);
    else if (pooling == SPPIM_POOLING_MEAN)
        pool_mean(t, a, ld, n, y, keep);
    else
        for (size_t p = 0; p < t->height * t->width; p++)
            memcpy(y + p * n, a + p * ld, n);
}

/* ---- the way back ------------------------------------------------------------------------------------------------- */

static void spread_to_largest(const int8_t *restrict delta, const uint8_t *restrict best, size_t n, uint8_t place,
                              int8_t *restrict d)
{
    for (size_t c = 0; c < n; c++)
        d[c] = (int8_t)(delta[c] & -(best[c] == place));
}

static void spread_to_all(const int8_t *restrict delta, const uint8_t *restrict a, size_t n, int8_t *restrict d)
{
    for (size_t c = 0; c < n; c++)
        d[c] = (int8_t)(delta[c] & -(a[c] > 0));
}

/* Positions that no square covers have no error. */
static void clear_rest(const sppim_tiling *t, size_t n, int8_t *d, size_t ld)
{
    for (size_t p = 0; p < t->height * t->width; p++)
        if (p / t->width >= t->down * t->size || p % t->width >= t->across * t->size)
            memset(d + p * ld, 0, n);
}

void sppim_spread_errors(const sppim_tiling *t, int pooling, const int8_t *delta, const uint8_t *keep, size_t n, int8_t *d,
                         size_t ld)
{
    clear_rest(t, n, d, ld);
    for (size_t o = 0; o < t->down * t->across; o++)
        for (size_t p = 0; p < t->size * t->size; p++) {
            const size_t at = position_of(t, o / t->across, o % t->across, p);
            if (pooling == SPPIM_POOLING_MAX)
                spread_to_largest(delta + o * n, keep + o * n, n, (uint8_t)p, d + at * ld);
            else if (pooling == SPPIM_POOLING_MEAN)
                spread_to_all(delta + o * n, keep + at * n, n, d + at * ld);
            else
                memcpy(d + at * ld, delta + o * n, n);
        }
    for (size_t p = 0; p < t->height * t->width; p++)
        memset(d + p * ld + n, 0, ld - n);
}
