/* The scalar definitions of fixed.h over arrays: the public face of docs/arithmetic.md, A1 to A6. */
#include "fixed.h"

#define DRAW_INDICES ((uint64_t)1 << 32)

sppim_status sppim_requantize(const int64_t *x, size_t count, int32_t shift, int32_t mode, int64_t lo, int64_t hi,
                              int64_t *out)
{
    if (count && (!x || !out))
        return SPPIM_ERROR_NULL;
    if (shift < 0 || shift > 62 || mode < 0 || mode >= SPPIM_SR || lo > hi)
        return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        out[i] = sppim_requantize1(x[i], shift, mode, lo, hi);
    return SPPIM_OK;
}

sppim_status sppim_round_stochastic(const int64_t *x, const uint16_t *u, size_t count, int32_t shift, int64_t *out)
{
    if (count && (!x || !u || !out))
        return SPPIM_ERROR_NULL;
    if (shift < 0 || shift > 46)
        return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        if (x[i] <= -((int64_t)1 << 31) || x[i] >= (int64_t)1 << 31)
            return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        out[i] = sppim_sr(x[i], shift, u[i]);
    return SPPIM_OK;
}

sppim_status sppim_fit(const int64_t *x, size_t count, sppim_accumulator accumulator, int64_t *out, uint64_t *changed)
{
    if (count && (!x || !out))
        return SPPIM_ERROR_NULL;
    if (!sppim_accumulator_valid(accumulator))
        return SPPIM_ERROR_RANGE;
    uint64_t differing = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t fitted = sppim_fit1(x[i], accumulator);
        differing += fitted != x[i];
        out[i] = fitted;
    }
    if (changed)
        *changed = differing;
    return SPPIM_OK;
}

sppim_status sppim_pot_mac(const int64_t *acc, const int8_t *x, const uint8_t *code, size_t count, int64_t *out)
{
    if (count && (!acc || !x || !code || !out))
        return SPPIM_ERROR_NULL;
    for (size_t i = 0; i < count; i++)
        if (code[i] > 15 || acc[i] > INT64_MAX / 2 || acc[i] < INT64_MIN / 2)
            return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        out[i] = sppim_pot_mac1(acc[i], x[i], code[i]);
    return SPPIM_OK;
}

sppim_status sppim_product_weights(const int16_t *w, size_t count, int32_t product_bits, int16_t *v)
{
    if (count && (!w || !v))
        return SPPIM_ERROR_NULL;
    if (!sppim_within(product_bits, 2, 16))
        return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        if (!sppim_within(w[i], -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX))
            return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        v[i] = (int16_t)sppim_product_weight(w[i], product_bits);
    return SPPIM_OK;
}

sppim_status sppim_hinge_errors(const int64_t *score, const uint8_t *label, size_t count, int32_t margin_log2,
                                int8_t *e, uint64_t *saturated)
{
    if (count && (!score || !label || !e))
        return SPPIM_ERROR_NULL;
    if (!sppim_within(margin_log2, 7, 40))
        return SPPIM_ERROR_RANGE;
    for (size_t i = 0; i < count; i++)
        if (label[i] > 1 || !sppim_within(score[i], INT64_MIN / 2, INT64_MAX / 2))
            return SPPIM_ERROR_RANGE;
    uint64_t clipped = 0;
    for (size_t i = 0; i < count; i++)
        e[i] = sppim_hinge_error(score[i], label[i], margin_log2, &clipped);
    if (saturated)
        *saturated = clipped;
    return SPPIM_OK;
}

static sppim_status check_draw(int32_t stream, uint32_t first, size_t count, const void *out)
{
    if (count && !out)
        return SPPIM_ERROR_NULL;
    if (stream < SPPIM_STREAM_WEIGHTS || stream > SPPIM_STREAM_AUGMENTATION || count > DRAW_INDICES - first)
        return SPPIM_ERROR_RANGE;
    return SPPIM_OK;
}

sppim_status sppim_draw32(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first, size_t count,
                          uint32_t *out)
{
    const sppim_status status = check_draw(stream, first, count, out);
    if (status != SPPIM_OK)
        return status;
    const sppim_key key = sppim_key_make(seed, stream, layer, step);
    for (size_t i = 0; i < count; i++)
        out[i] = sppim_draw32_1(key, first + (uint32_t)i);
    return SPPIM_OK;
}

sppim_status sppim_draw16(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first, size_t count,
                          uint16_t *out)
{
    const sppim_status status = check_draw(stream, first, count, out);
    if (status != SPPIM_OK)
        return status;
    const sppim_key key = sppim_key_make(seed, stream, layer, step);
    for (size_t i = 0; i < count; i++)
        out[i] = sppim_draw16_1(key, first + (uint32_t)i);
    return SPPIM_OK;
}
