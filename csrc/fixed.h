/* Scalar arithmetic: one inline function per clause of docs/arithmetic.md. Everything else is built on these. */
#ifndef SPPIM_FIXED_H
#define SPPIM_FIXED_H

#include <stdbool.h>
#include <stdint.h>

#include "sppim.h"

#define SPPIM_WEIGHT_MAX 32639      /* A2 */
#define SPPIM_BIAS_INPUT 64         /* A2 */
#define SPPIM_ERROR_MAX 127         /* A2 */
#define SPPIM_SCORE_BIAS_MAX (1 << 30) /* A6.7 */

static inline bool sppim_within(int64_t x, int64_t low, int64_t high) { return low <= x && x <= high; }

/* floor(x / 2^s), written without shifting a negative number (which C leaves to the compiler). */
static inline int64_t sppim_floor_shift(int64_t x, int s)
{
    return x < 0 ? ~(~x >> s) : x >> s;
}

/* A1.1 */
static inline int64_t sppim_shr(int64_t x, int s, int mode)
{
    if (s == 0)
        return x;
    const int64_t q = sppim_floor_shift(x, s);
    const uint64_t r = (uint64_t)x & ((1ull << s) - 1), half = 1ull << (s - 1);
    switch (mode) {
    case SPPIM_RNU: return q + (r >= half);
    case SPPIM_RNE: return q + (r > half || (r == half && (q & 1)));
    case SPPIM_ROD: return q + (r != 0 && !(q & 1));
    default: return q; /* SPPIM_RDN */
    }
}

/* A1.2 */
static inline int64_t sppim_sr(int64_t x, int s, uint16_t u)
{
    return sppim_floor_shift(x + (int64_t)(((uint64_t)u << s) >> 16), s);
}

/* A1.3 */
static inline int64_t sppim_sat(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* A1.4; 1 <= bits <= 63 */
static inline int64_t sppim_wrap(int64_t x, int bits)
{
    const uint64_t sign = 1ull << (bits - 1);
    const uint64_t low = (uint64_t)x & ((sign << 1) - 1);
    return (int64_t)(low ^ sign) - (int64_t)sign;
}

/* A1.5 */
static inline int64_t sppim_requantize1(int64_t x, int s, int mode, int64_t lo, int64_t hi)
{
    return sppim_sat(sppim_shr(x, s, mode), lo, hi);
}

static inline bool sppim_accumulator_valid(sppim_accumulator a)
{
    return (a.bits == 0 || sppim_within(a.bits, 8, 32)) && sppim_within(a.overflow, 0, SPPIM_OVERFLOW_COUNT - 1);
}

/* A1.6 */
static inline int64_t sppim_fit1(int64_t x, sppim_accumulator a)
{
    if (a.bits == 0)
        return x;
    if (a.overflow == SPPIM_WRAP)
        return sppim_wrap(x, a.bits);
    const int64_t limit = (int64_t)1 << (a.bits - 1);
    return sppim_sat(x, -limit, limit - 1);
}

/* A3.1 */
static inline uint32_t sppim_mix32(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ (x >> 16);
}

/* A3.2 */
static inline uint64_t sppim_mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDull;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53ull;
    return x ^ (x >> 33);
}

typedef struct sppim_key {
    uint32_t k0, k1;
} sppim_key;

/* A3.3 */
static inline sppim_key sppim_key_make(uint64_t seed, int stream, uint64_t layer, uint64_t step)
{
    const uint64_t words[4] = {seed, (uint64_t)stream, layer, step};
    uint64_t k = 0;
    for (int i = 0; i < 4; i++)
        k = sppim_mix64((k ^ words[i]) + 0x9E3779B97F4A7C15ull);
    return (sppim_key){(uint32_t)k, (uint32_t)(k >> 32)};
}

/* A3.4 */
static inline uint32_t sppim_draw32_1(sppim_key key, uint32_t i)
{
    return sppim_mix32((i ^ key.k1) + key.k0);
}

static inline uint16_t sppim_draw16_1(sppim_key key, uint32_t i)
{
    const uint32_t both = sppim_draw32_1(key, i / 2);
    return (uint16_t)(i % 2 ? both >> 16 : both);
}

/* A4.3 */
static inline uint8_t sppim_pot_code(uint16_t u, int levels)
{
    return (uint8_t)((u >> 15) << 3 | (((u & 0x7FFFu) * (unsigned)levels) >> 15));
}

/* A4.2 */
static inline int64_t sppim_pot_mac1(int64_t acc, int64_t x, uint8_t code)
{
    const int e = code & 7;
    if (e == 7)
        return acc;
    const int64_t shifted = (int64_t)((uint64_t)x << e);
    return code & 8 ? acc - shifted : acc + shifted;
}

/* A7.4: the running mean after a batch with this mean, and its rounded top byte. */
static inline int16_t sppim_next_mean(int16_t mean, int64_t batch)
{
    return (int16_t)(mean + sppim_shr(batch - mean, 4, SPPIM_RNU));
}

static inline int8_t sppim_mean_byte(int16_t mean)
{
    return (int8_t)sppim_requantize1(mean, 8, SPPIM_RNU, -128, 127);
}

/* A7.5: the largest weight of so many bits. */
static inline int64_t sppim_weight_limit(int bits)
{
    return SPPIM_WEIGHT_MAX >> (16 - bits) << (16 - bits);
}

/* A7.5: to the nearest weight of so many bits. */
static inline int64_t sppim_coarse_weight(int64_t w, int bits)
{
    const int64_t step = (int64_t)1 << (16 - bits), limit = sppim_weight_limit(bits);
    return sppim_sat(sppim_shr(w, 16 - bits, SPPIM_RNU) * step, -limit, limit);
}

/* A6.8: ties to even, since many small errors add up, and so would a bias. */
static inline int64_t sppim_coarse_error(int64_t d, int bits, int threshold)
{
    const int64_t step = (int64_t)1 << (8 - bits), limit = (((int64_t)1 << (bits - 1)) - 1) * step;
    return d > -threshold && d < threshold ? 0 : sppim_sat(sppim_shr(d, 8 - bits, SPPIM_RNE) * step, -limit, limit);
}

/* A5.2 */
static inline int64_t sppim_product_weight(int64_t w, int product_bits)
{
    const int64_t h = ((int64_t)1 << (product_bits - 1)) - 1;
    return sppim_requantize1(w, 16 - product_bits, SPPIM_RNU, -h, h);
}

/* A6.1; adds to *saturated */
static inline int8_t sppim_hinge_error(int64_t score, bool is_label, int margin_log2, uint64_t *saturated)
{
    const int64_t tau = (int64_t)1 << margin_log2;
    const int64_t v = is_label ? sppim_sat(score - tau, INT64_MIN, 0) : sppim_sat(score + tau, 0, INT64_MAX);
    const int64_t rounded = sppim_shr(v, margin_log2 - 7, SPPIM_RNU);
    const int64_t e = sppim_sat(rounded, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
    *saturated += e != rounded;
    return (int8_t)e;
}

#endif
