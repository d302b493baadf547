/* Convolutions as products (A11.3): the operands of every output position, side by side. */
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

/* One row of one window: the columns inside the image are consecutive in x. */
static void copy_row(const sppim_window *w, const int8_t *image, int64_t y, int64_t left, int8_t *out)
{
    const size_t channels = (size_t)w->channels;
    const int64_t first = left < 0 ? -left : 0, past = left + w->columns - w->width;
    const int64_t last = w->columns - (past > 0 ? past : 0); /* columns first .. last-1 are inside */
    if (y < 0 || y >= w->height || first >= last) {
        memset(out, 0, (size_t)w->columns * channels);
        return;
    }
    memset(out, 0, (size_t)first * channels);
    memcpy(out + (size_t)first * channels, image + (size_t)(y * w->width + left + first) * channels,
           (size_t)(last - first) * channels);
    memset(out + (size_t)last * channels, 0, (size_t)(w->columns - last) * channels);
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
    const size_t row = (size_t)w->columns * (size_t)w->channels;
    for (size_t i = 0; i < n * down * across; i++) {
        const size_t position = i % (down * across);
        const int64_t top = (int64_t)(position / across) * w->stride - w->padding;
        const int64_t left = (int64_t)(position % across) * w->stride - w->padding;
        for (int32_t r = 0; r < w->rows; r++, out += row)
            copy_row(w, x + i / (down * across) * image, top + r, left, out);
    }
    return SPPIM_OK;
}
