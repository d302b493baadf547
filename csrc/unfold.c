/* Convolutions as products (A11.3, A12.2): the operands of every output position, side by side. */
#include "window.h"

#include <string.h>

#include "fixed.h"

static bool window_valid(const sppim_window *w)
{
    const int32_t most = 65535;
    return sppim_within(w->height, 1, most) && sppim_within(w->width, 1, most) && sppim_within(w->channels, 1, most) &&
           sppim_within(w->rows, 1, most) && sppim_within(w->columns, 1, most) && sppim_within(w->stride, 1, most) &&
           w->padding >= 0 && w->padding < w->rows && w->padding < w->columns;
}

sppim_status sppim_window_outputs(const sppim_window *w, size_t *down, size_t *across)
{
    if (!w || !down || !across)
        return SPPIM_ERROR_NULL;
    if (w->struct_size != sizeof *w)
        return SPPIM_ERROR_SHAPE;
    if (!window_valid(w))
        return SPPIM_ERROR_RANGE;
    const int64_t height = w->height + 2 * (int64_t)w->padding, width = w->width + 2 * (int64_t)w->padding;
    if (w->rows > height || w->columns > width)
        return SPPIM_ERROR_SHAPE;
    *down = (size_t)((height - w->rows) / w->stride + 1);
    *across = (size_t)((width - w->columns) / w->stride + 1);
    return SPPIM_OK;
}

/* Columns first .. last-1 of a window at `left` are inside the image. */
typedef struct range {
    int64_t first, last;
} range;

static range inside(int64_t start, int64_t length, int64_t limit)
{
    const int64_t first = start < 0 ? -start : 0, past = start + length - limit;
    const int64_t last = length - (past > 0 ? past : 0);
    return (range){first, last > first ? last : first};
}

static void copy_or_clear(int8_t *out, const int8_t *from, size_t size)
{
    if (from)
        memcpy(out, from, size);
    else
        memset(out, 0, size);
}

/* One row of one window: the columns inside the image are consecutive in x. */
static void copy_row(const sppim_window *w, const int8_t *image, const int8_t *pad, int64_t y, int64_t left, int8_t *out)
{
    const size_t channels = (size_t)w->channels;
    range in = inside(left, w->columns, w->width);
    if (y < 0 || y >= w->height)
        in.last = in.first = 0;
    const size_t before = (size_t)in.first * channels, upto = (size_t)in.last * channels;
    if (before)
        copy_or_clear(out, pad, before);
    if (upto > before)
        memcpy(out + before, image + (size_t)(y * w->width + left + in.first) * channels, upto - before);
    if (upto < (size_t)w->columns * channels)
        copy_or_clear(out + upto, pad, (size_t)w->columns * channels - upto);
}

void sppim_unfold_positions(const sppim_window *w, size_t across, const int8_t *image, const int8_t *pad, size_t first,
                            size_t count, int8_t *out, size_t ld)
{
    const size_t row = (size_t)w->columns * (size_t)w->channels;
    for (size_t i = 0; i < count; i++) {
        const int64_t top = (int64_t)((first + i) / across) * w->stride - w->padding;
        const int64_t left = (int64_t)((first + i) % across) * w->stride - w->padding;
        for (int32_t r = 0; r < w->rows; r++)
            copy_row(w, image, pad, top + r, left, out + i * ld + (size_t)r * row);
    }
}

void sppim_fold_position(const sppim_window *w, size_t across, const int64_t *operand, size_t position, int64_t *map)
{
    const size_t channels = (size_t)w->channels, row = (size_t)w->columns * channels;
    const int64_t top = (int64_t)(position / across) * w->stride - w->padding;
    const int64_t left = (int64_t)(position % across) * w->stride - w->padding;
    const range in = inside(left, w->columns, w->width);
    for (int64_t r = 0; r < w->rows; r++) {
        if (top + r < 0 || top + r >= w->height)
            continue;
        const int64_t *from = operand + (size_t)r * row + (size_t)in.first * channels;
        int64_t *to = map + (size_t)((top + r) * w->width + left + in.first) * channels;
        for (size_t i = 0; i < (size_t)(in.last - in.first) * channels; i++)
            to[i] += from[i];
    }
}

sppim_status sppim_unfold(const sppim_window *w, const int8_t *x, size_t n, int8_t *out)
{
    size_t down, across;
    const sppim_status status = sppim_window_outputs(w, &down, &across);
    if (status != SPPIM_OK)
        return status;
    if (n && (!x || !out))
        return SPPIM_ERROR_NULL;
    const size_t image = (size_t)w->height * (size_t)w->width * (size_t)w->channels;
    const size_t operands = (size_t)w->rows * (size_t)w->columns * (size_t)w->channels;
    for (size_t i = 0; i < n; i++)
        sppim_unfold_positions(w, across, x + i * image, NULL, 0, down * across, out + i * down * across * operands,
                               operands);
    return SPPIM_OK;
}

/* ---- how often pixels are read ------------------------------------------------------------------------------------ */

static uint64_t count_line(size_t positions, int64_t window, int64_t stride, int64_t padding, int64_t length,
                           uint32_t *uses)
{
    uint64_t total = 0;
    memset(uses, 0, (size_t)length * sizeof *uses);
    for (size_t i = 0; i < positions; i++) {
        const int64_t start = (int64_t)i * stride - padding;
        const range in = inside(start, window, length);
        for (int64_t r = in.first; r < in.last; r++)
            uses[start + r]++;
        total += (uint64_t)(in.last - in.first);
    }
    return total;
}

void sppim_count_uses(const sppim_window *w, size_t down, size_t across, sppim_uses *uses)
{
    uses->inside = count_line(down, w->rows, w->stride, w->padding, w->height, uses->rows) *
                   count_line(across, w->columns, w->stride, w->padding, w->width, uses->columns);
}

uint64_t sppim_count_operands(const sppim_kernels *kernels, const sppim_window *w, const sppim_uses *uses,
                              const int8_t *image)
{
    const size_t width = (size_t)w->width, channels = (size_t)w->channels;
    uint64_t total = 0;
    uint8_t bits = 0;
    for (size_t y = 0; y < (size_t)w->height; y++)
        for (size_t x = 0, end; uses->rows[y] && x < width; x = end) { /* a run of pixels that are read as often */
            for (end = x + 1; end < width && uses->columns[end] == uses->columns[x]; end++)
                continue;
            total += (uint64_t)uses->rows[y] * uses->columns[x] *
                     kernels->census_s8(image + (y * width + x) * channels, (end - x) * channels, &bits);
        }
    return total;
}

void sppim_count_columns(const sppim_window *w, size_t down, size_t across, const uint32_t *value_nonzeros,
                         const int8_t *pad, uint32_t n, size_t r, size_t s, uint32_t *nonzeros)
{
    const size_t channels = (size_t)w->channels;
    uint32_t *restrict to = nonzeros + (r * (size_t)w->columns + s) * channels;
    uint32_t outside = 0;
    memset(to, 0, channels * sizeof *to);
    for (size_t i = 0; i < down; i++)
        for (size_t j = 0; j < across; j++) {
            const int64_t y = (int64_t)(i * (size_t)w->stride + r) - w->padding;
            const int64_t x = (int64_t)(j * (size_t)w->stride + s) - w->padding;
            if (y < 0 || y >= w->height || x < 0 || x >= w->width) {
                outside += n;
                continue;
            }
            const uint32_t *restrict from = value_nonzeros + (size_t)(y * w->width + x) * channels;
            for (size_t c = 0; c < channels; c++)
                to[c] += from[c];
        }
    for (size_t c = 0; c < channels; c++)
        to[c] += pad[c] ? outside : 0;
}
