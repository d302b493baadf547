/* Advanced SIMD of ARMv8.0, without dot products. Four lanes of a panel are consecutive columns, so that the way
 * from one order to the other is an order of vectors, or an interleaving of 32-bit words. */
#include "../fixed.h"
#include "../kernels.h"

#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__AARCH64EL__)

#include <arm_neon.h>
#include <string.h>

#define INLINE __attribute__((always_inline)) static inline

/* An array lives in registers only if GCC unrolls the loops over it early. */
#ifdef __clang__
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

enum { TILE_ROWS = 4 };

static sppim_kernels below; /* for what the vector code leaves over */

/* Modulo 2^32: the header of GCC makes vaddq_s32 a signed sum. */
INLINE int32x4_t add(int32x4_t a, int32x4_t b)
{
    return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

INLINE void add_to(int32_t *sums, int32x4_t x) { vst1q_s32(sums, add(vld1q_s32(sums), x)); }

/* Where the sums of four lanes begin. */
INLINE int32x4_t begin_sums(sppim_start start, size_t row, size_t lane)
{
    const uint32x4_t column = vreinterpretq_u32_s32(start.column ? vld1q_s32(start.column + lane) : vdupq_n_s32(0));
    return vreinterpretq_s32_u32(vmulq_n_u32(column, start.scale ? (uint32_t)start.scale[row] : 1));
}

/* ---- products of bytes ------------------------------------------------------------------------------------------- */

/* Two products of signed bytes are summed in a word before they are widened, but twice (-128)(-128) is one more than
 * a word holds. Hence every second weight w is taken as -1 - w, to be subtracted: sums lie within +-32640. What this
 * leaves out, the sum of every second operand, follows from the operands alone. */
INLINE int8x16_t odd_bytes(const int8_t *w) { return vmvnq_s8(vld1q_s8(w)); }

INLINE int16x8_t low_products(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd)
{
    return vmlsl_s8(vmull_s8(vget_low_s8(even), vget_low_s8(x_even)), vget_low_s8(odd), vget_low_s8(x_odd));
}

INLINE int16x8_t high_products(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd)
{
    return vmlsl_high_s8(vmull_high_s8(even, x_even), odd, x_odd);
}

/* The operands of two steps; of the last one, and zeros. */
INLINE int8x8_t load_steps(const int8_t *x, size_t steps, int flip)
{
    const uint64_t flips = 0x0101010101010101u * (uint64_t)flip;
    uint64_t both = 0;
    __builtin_memcpy(&both, x, steps == 1 ? 4 : 8);
    return veor_s8(vcreate_s8(both), vcreate_s8(steps == 1 ? flips >> 32 : flips));
}

static bool has_negative(const int8_t *x, size_t ld, size_t rows, size_t steps)
{
    int8x8_t least = vdup_n_s8(0);
    for (size_t r = 0; r < rows; r++)
        for (size_t s = 0; s < steps; s += 2)
            least = vmin_s8(least, load_steps(x + r * ld + 4 * s, steps - s, 0));
    return vminv_s8(least) < 0;
}

static int32_t left_out_s8(const int8_t *x, size_t steps, int flip)
{
    int32x4_t sum = vdupq_n_s32(0); /* of even steps, and of odd ones */
    for (size_t s = 0; s < steps; s += 2)
        sum = vpadalq_s16(sum, vmovl_s8(load_steps(x + 4 * s, steps - s, flip)));
    return -vaddv_s32(vget_high_s32(sum));
}

/* sums[lane] = 128 times the sum of the weights. */
static void offsets_s8(const int8_t *quads, size_t steps, int32_t *sums)
{
    int32x4_t acc[8];
    UNROLLED for (int v = 0; v < 8; v++)
        acc[v] = vdupq_n_s32(0);
    for (size_t s = 0, end; s < steps; s = end) { /* twice 127 bytes fit in a word */
        int16x8_t words[8];
        UNROLLED for (int v = 0; v < 8; v++)
            words[v] = vdupq_n_s16(0);
        for (end = sppim_smaller(s + 127, steps); s < end; s++)
            UNROLLED for (int v = 0; v < 8; v++)
                words[v] = vpadalq_s8(words[v], vld1q_s8(quads + 128 * s + 16 * v));
        UNROLLED for (int v = 0; v < 8; v++)
            acc[v] = vpadalq_s16(acc[v], words[v]);
    }
    UNROLLED for (int v = 0; v < 8; v++)
        vst1q_s32(sums + 4 * v, vshlq_n_s32(acc[v], 7));
}

/* Adds two steps to acc, which holds two sums of each lane side by side; lanes is a constant wherever this is
 * inlined. */
INLINE void two_steps_s8(int8x8_t x, size_t lanes, const int8_t *even, const int8_t *odd, int32x4_t *acc)
{
    const int32x2_t both = vreinterpret_s32_s8(x);
    const int8x16_t x0 = vreinterpretq_s8_s32(vdupq_lane_s32(both, 0)), x1 = vreinterpretq_s8_s32(vdupq_lane_s32(both, 1));
    for (size_t v = 0; v < lanes / 4; v++) {
        const int8x16_t w0 = vld1q_s8(even + 16 * v), w1 = odd_bytes(odd + 16 * v);
        acc[2 * v] = vpadalq_s16(acc[2 * v], low_products(w0, w1, x0, x1));
        acc[2 * v + 1] = vpadalq_s16(acc[2 * v + 1], high_products(w0, w1, x0, x1));
    }
}

/* Sums of x ^ flip, here signed. rows and lanes are constants wherever this is inlined, their product at most 32:
 * sums fill 16 of the 32 registers. */
INLINE void tile_s8(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads, size_t lanes,
                    int32_t *sums)
{
    int32x4_t acc[TILE_ROWS][8];
    for (size_t r = 0; r < rows; r++)
        for (size_t v = 0; v < lanes / 2; v++)
            acc[r][v] = vdupq_n_s32(0);
    size_t s = 0;
    for (; s + 2 <= steps; s += 2)
        for (size_t r = 0; r < rows; r++)
            two_steps_s8(load_steps(x + r * ld + 4 * s, 2, flip), lanes, quads + 128 * s, quads + 128 * (s + 1), acc[r]);
    for (size_t r = 0; s < steps && r < rows; r++)
        two_steps_s8(load_steps(x + r * ld + 4 * s, 1, flip), lanes, quads + 128 * s, quads + 128 * s, acc[r]);
    for (size_t r = 0; r < rows; r++)
        for (size_t v = 0; v < lanes / 4; v++)
            vst1q_s32(sums + r * SPPIM_PANEL + 4 * v, vpaddq_s32(acc[r][2 * v], acc[r][2 * v + 1]));
}

INLINE void store_sums(int32x4_t sums, size_t lane, int32_t *out, int order)
{
    vst1q_s32(out + (order == SPPIM_LANES ? lane : sppim_lane_column(lane)), sums);
}

static void end_row(const int32_t *sums, const int32_t *offsets, sppim_start start, size_t r, int32_t left_out, int32_t *out,
                    int order)
{
    for (size_t lane = 0; lane < SPPIM_PANEL; lane += 4) {
        const int32x4_t taken = add(vld1q_s32(sums + lane), vdupq_n_s32(left_out));
        store_sums(add(add(begin_sums(start, r, lane), vld1q_s32(offsets + lane)), taken), lane, out, order);
    }
}

/* Operands above 127 are taken as x - 128: activations have none, so that the sums of the weights are seldom needed. */
static void product_s8_neon(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                            sppim_start start, int32_t *out, size_t ld_out, int order)
{
    int32_t offsets[SPPIM_PANEL] = {0};
    if (flip == SPPIM_SIGNED || has_negative(x, ld, rows, steps)) {
        offsets_s8(quads, steps, offsets);
        flip ^= 128;
    }
    for (size_t r = 0, count; r < rows; r += count) {
        int32_t sums[TILE_ROWS * SPPIM_PANEL];
        count = rows - r < TILE_ROWS ? 1 : TILE_ROWS;
        for (size_t lane = 0; count == 1 && lane < SPPIM_PANEL; lane += 16)
            tile_s8(x + r * ld, ld, 1, steps, flip, quads + 4 * lane, 16, sums + lane);
        for (size_t lane = 0; count == TILE_ROWS && lane < SPPIM_PANEL; lane += 8)
            tile_s8(x + r * ld, ld, TILE_ROWS, steps, flip, quads + 4 * lane, 8, sums + lane);
        for (size_t i = r; i < r + count; i++)
            end_row(sums + (i - r) * SPPIM_PANEL, offsets, start, i, left_out_s8(x + i * ld, steps, flip), out + i * ld_out,
                    order);
    }
}

/* ---- products with rows of a group: four of its columns a vector ------------------------------------------------- */

enum { GROUP_SUMS = 16 }; /* vectors */

INLINE void clear_group(int32x4_t acc[GROUP_SUMS])
{
    UNROLLED for (int v = 0; v < GROUP_SUMS; v++)
        acc[v] = vdupq_n_s32(0);
}

INLINE void add_eight(int16x8_t w, int16x8_t x, int32x4_t acc[2])
{
    acc[0] = vmlal_s16(acc[0], vget_low_s16(w), vget_low_s16(x));
    acc[1] = vmlal_high_s16(acc[1], w, x);
}

INLINE void add_words_row(int16_t value, const int16_t *words, int32x4_t acc[GROUP_SUMS])
{
    UNROLLED for (int v = 0; v < 8; v++)
        add_eight(vld1q_s16(words + 8 * v), vdupq_n_s16(value), acc + 2 * v);
}

INLINE void add_row(int16_t value, const int8_t *row, int32x4_t acc[GROUP_SUMS])
{
    UNROLLED for (int v = 0; v < 4; v++) {
        const int8x16_t w = vld1q_s8(row + 16 * v);
        add_eight(vmovl_s8(vget_low_s8(w)), vdupq_n_s16(value), acc + 4 * v);
        add_eight(vmovl_high_s8(w), vdupq_n_s16(value), acc + 4 * v + 2);
    }
}

/* -127 <= x <= 127: two products fit in a word. */
INLINE void add_two_rows(int8x16_t x0, int8x16_t x1, const int8_t *row0, const int8_t *row1, int32x4_t acc[GROUP_SUMS])
{
    UNROLLED for (int v = 0; v < 4; v++) {
        const int8x16_t w0 = vld1q_s8(row0 + 16 * v), w1 = vld1q_s8(row1 + 16 * v);
        const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(x0)), vget_low_s8(w1), vget_low_s8(x1));
        const int16x8_t high = vmlal_high_s8(vmull_high_s8(w0, x0), w1, x1);
        acc[4 * v] = vaddw_s16(acc[4 * v], vget_low_s16(low));
        acc[4 * v + 1] = vaddw_high_s16(acc[4 * v + 1], low);
        acc[4 * v + 2] = vaddw_s16(acc[4 * v + 2], vget_low_s16(high));
        acc[4 * v + 3] = vaddw_high_s16(acc[4 * v + 3], high);
    }
}

INLINE void widen_group(const int32x4_t acc[GROUP_SUMS], int64_t *out)
{
    UNROLLED for (int v = 0; v < GROUP_SUMS; v++) {
        vst1q_s64(out + 4 * v, vaddw_s32(vld1q_s64(out + 4 * v), vget_low_s32(acc[v])));
        vst1q_s64(out + 4 * v + 2, vaddw_high_s32(vld1q_s64(out + 4 * v + 2), acc[v]));
    }
}

INLINE void end_group(const int32x4_t acc[GROUP_SUMS], sppim_start start, int32_t *out, int order)
{
    UNROLLED for (size_t v = 0; v < GROUP_SUMS; v++) {
        const size_t lane = sppim_lane_of(4 * v);
        vst1q_s32(out + (order == SPPIM_LANES ? lane : 4 * v), add(begin_sums(start, 0, lane), acc[v]));
    }
}

INLINE int32_t signed_value(sppim_nonzeros x, size_t i, int32_t magnitude)
{
    return i < x.negatives ? -magnitude : magnitude;
}

INLINE int8x16_t signed_byte(sppim_nonzeros x, size_t i) { return vdupq_n_s8((int8_t)signed_value(x, i, x.value[i])); }

/* Values below 128, two at a time. */
static void sparse_small(sppim_nonzeros x, const int8_t *rows, sppim_start start, int32_t *out, int order)
{
    int32x4_t acc[GROUP_SUMS];
    clear_group(acc);
    for (size_t i = 0; i < x.count; i += 2) {
        const int8_t *row0 = rows + sppim_in_rows(x.index[i], 0), *row1 = rows + sppim_in_rows(x.index[i + 1], 0);
        add_two_rows(signed_byte(x, i), signed_byte(x, i + 1), row0, row1, acc);
    }
    end_group(acc, start, out, order);
}

static void sparse_any(sppim_nonzeros x, const int8_t *rows, sppim_start start, int32_t *out, int order)
{
    int32x4_t acc[GROUP_SUMS];
    clear_group(acc);
    for (size_t i = 0; i < x.count; i++)
        add_row((int16_t)signed_value(x, i, x.value[i]), rows + sppim_in_rows(x.index[i], 0), acc);
    end_group(acc, start, out, order);
}

static void product_sparse_s8_neon(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                   sppim_start start, int32_t *out, int order)
{
    unsigned bits = 0;
    for (size_t i = 0; i < x.count; i++)
        bits |= x.value[i];
    for (size_t g = 0; g < groups; g++, rows += group_stride, out += SPPIM_GROUP) {
        if (bits < 128)
            sparse_small(x, rows, start, out, order);
        else
            sparse_any(x, rows, start, out, order);
        start.column = start.column ? start.column + SPPIM_GROUP : NULL;
    }
}

INLINE int32_t signed_word(sppim_nonzeros x, size_t i) { return signed_value(x, i, 256 * x.high[i] + x.value[i]); }

static bool are_words(sppim_nonzeros x)
{
    bool words = true;
    for (size_t i = 0; i < x.count; i++)
        words &= signed_word(x, i) == (int16_t)signed_word(x, i);
    return words;
}

static void add_words_block(sppim_nonzeros x, size_t first, size_t end, const int8_t *rows, int64_t *out)
{
    int32x4_t acc[GROUP_SUMS];
    clear_group(acc);
    for (size_t i = first; i < end; i++)
        add_row((int16_t)signed_word(x, i), rows + sppim_in_rows(x.index[i], 0), acc);
    widen_group(acc, out);
}

static void product_sparse_s16s8_neon(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups, int64_t *out)
{
    if (!are_words(x)) {
        below.product_sparse_s16s8(x, rows, group_stride, groups, out);
        return;
    }
    memset(out, 0, groups * SPPIM_GROUP * sizeof *out);
    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < x.count; i += 256) /* 511 products of a word and a byte fit in 32 bits */
            add_words_block(x, i, sppim_smaller(i + 256, x.count), rows + g * group_stride, out + g * SPPIM_GROUP);
}

static void product_sparse_s16_neon(sppim_nonzeros x, const int16_t *words, size_t group_stride, size_t groups,
                                    const int64_t *start, int64_t *out)
{
    if (start)
        memcpy(out, start, groups * SPPIM_GROUP * sizeof *out);
    for (size_t g = 0; g < groups; g++, words += group_stride, out += SPPIM_GROUP) {
        int32x4_t acc[GROUP_SUMS];
        clear_group(acc);
        for (size_t i = 0; i < x.count; i++)
            add_words_row(x.value16[i], words + sppim_in_rows(x.index[i], 0), acc);
        widen_group(acc, out);
    }
}

/* ---- products of words ------------------------------------------------------------------------------------------- */

INLINE int16x4_t load_two(const int16_t *x)
{
    uint32_t two;
    __builtin_memcpy(&two, x, sizeof two);
    return vcreate_s16(two);
}

/* acc += both products of each pair; lanes is a constant wherever this is inlined. */
INLINE void step_s16(int16x4_t x, size_t lanes, const int16_t *pairs, int32x4_t *acc)
{
    for (size_t v = 0; v < lanes / 8; v++) {
        const int16x8x2_t w = vld2q_s16(pairs + 16 * v);
        acc[2 * v] = vmlal_lane_s16(acc[2 * v], vget_low_s16(w.val[0]), x, 0);
        acc[2 * v] = vmlal_lane_s16(acc[2 * v], vget_low_s16(w.val[1]), x, 1);
        acc[2 * v + 1] = vmlal_high_lane_s16(acc[2 * v + 1], w.val[0], x, 0);
        acc[2 * v + 1] = vmlal_high_lane_s16(acc[2 * v + 1], w.val[1], x, 1);
    }
}

/* out[column] = from[column] + 2^shift sums */
INLINE void end_sums_s16(int32x4_t sums, size_t lane, int64x2_t shift, const int64_t *from, int64_t *out)
{
    const size_t c = sppim_lane_column(lane);
    vst1q_s64(out + c, vaddq_s64(vld1q_s64(from + c), vshlq_s64(vmovl_s32(vget_low_s32(sums)), shift)));
    vst1q_s64(out + c + 2, vaddq_s64(vld1q_s64(from + c + 2), vshlq_s64(vmovl_high_s32(sums), shift)));
}

INLINE void tile_s16(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, size_t lanes, int shift,
                     const int64_t *start, int64_t *out, size_t ld_out)
{
    for (size_t first = 0; first < SPPIM_PANEL; first += lanes) {
        int32x4_t acc[TILE_ROWS][8];
        for (size_t r = 0; r < rows; r++)
            for (size_t v = 0; v < lanes / 4; v++)
                acc[r][v] = vdupq_n_s32(0);
        for (size_t s = 0; s < steps; s++)
            for (size_t r = 0; r < rows; r++)
                step_s16(load_two(x + r * ld + 2 * s), lanes, pairs + 64 * s + 2 * first, acc[r]);
        for (size_t r = 0; r < rows; r++, out += ld_out)
            for (size_t v = 0; v < lanes / 4; v++)
                end_sums_s16(acc[r][v], first + 4 * v, vdupq_n_s64(shift), start ? start : out, out);
        out -= rows * ld_out;
    }
}

static void product_s16_neon(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int shift,
                             const int64_t *start, int64_t *out, size_t ld_out)
{
    size_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile_s16(x + r * ld, ld, TILE_ROWS, steps, pairs, 16, shift, start, out + r * ld_out, ld_out);
    for (; r < rows; r++)
        tile_s16(x + r * ld, ld, 1, steps, pairs, 32, shift, start, out + r * ld_out, ld_out);
}

/* Adds one row of a panel: the other row of its pairs meets 0. */
INLINE void add_row_s16(int16_t value, uint16_t index, const int16_t *pairs, int32x4_t acc[8])
{
    const uint32_t word = (uint16_t)value;
    step_s16(vcreate_s16(index % 2 ? word << 16 : word), SPPIM_PANEL, pairs + index / 2 * 2 * SPPIM_PANEL, acc);
}

/* bits <= 31: neither a sum nor a product of words leaves s32. */
INLINE int32x4_t fit(int32x4_t x, bool wrap, int32x4_t limit, int32x4_t spare)
{
    return wrap ? vshlq_s32(vshlq_s32(x, spare), vnegq_s32(spare)) : vmaxq_s32(vminq_s32(x, limit), vmvnq_s32(limit));
}

static uint64_t product_finite_s16_neon(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator, int32_t *acc)
{
    if (!sppim_within(accumulator.bits, 1, 31))
        return below.product_finite_s16(x, pairs, accumulator, acc);
    const int32x4_t limit = vdupq_n_s32((1 << (accumulator.bits - 1)) - 1), spare = vdupq_n_s32(32 - accumulator.bits);
    const bool wrap = accumulator.overflow == SPPIM_WRAP;
    int32x4_t sum[8];
    uint64_t changed = 0;
    UNROLLED for (int v = 0; v < 8; v++)
        sum[v] = vld1q_s32(acc + 4 * v);
    for (size_t i = 0; i < x.count; i++) {
        int32x4_t exact[8];
        uint32x4_t kept = vdupq_n_u32(0);
        UNROLLED for (int v = 0; v < 8; v++)
            exact[v] = sum[v];
        add_row_s16(x.value16[i], x.index[i], pairs, exact);
        UNROLLED for (int v = 0; v < 8; v++) {
            sum[v] = fit(exact[v], wrap, limit, spare);
            kept = vsubq_u32(kept, vceqq_s32(sum[v], exact[v]));
        }
        changed += SPPIM_PANEL - vaddvq_u32(kept);
    }
    UNROLLED for (int v = 0; v < 8; v++)
        vst1q_s32(acc + 4 * v, sum[v]);
    return changed;
}

/* ---- activations and errors -------------------------------------------------------------------------------------- */

/* A1.1, rnu: the instruction rounds without a sum that could overflow. */
INLINE int32x4_t round_shift(const int32_t *x, int shift) { return vrshlq_s32(vld1q_s32(x), vdupq_n_s32(-shift)); }

static size_t requantize_relu_s32_neon(const int32_t *acc, int shift, int hi, int8_t *y)
{
    const int32x4_t top = vdupq_n_s32(hi), zero = vdupq_n_s32(0);
    uint32x4_t saturated = vdupq_n_u32(0);
    for (size_t i = 0; i < 4; i++) {
        const int32x4_t a = round_shift(acc + 4 * i, shift), b = round_shift(acc + 16 + 4 * i, shift);
        saturated = vsubq_u32(saturated, vaddq_u32(vcgtq_s32(a, top), vcgtq_s32(b, top)));
        const int16x4_t low = vmovn_s32(vmaxq_s32(vminq_s32(a, top), zero));
        vst1_s8(y + 8 * i, vmovn_s16(vmovn_high_s32(low, vmaxq_s32(vminq_s32(b, top), zero))));
    }
    return vaddvq_u32(saturated);
}

static size_t gate_s32_neon(const int32_t *acc, const int8_t *y, int shift, int8_t *d)
{
    const int16x8_t limit = vdupq_n_s16(SPPIM_ERROR_MAX);
    uint16x8_t saturated = vdupq_n_u16(0);
    for (size_t i = 0; i < 4; i++) {
        const int16x4_t low = vqmovn_s32(round_shift(acc + 4 * i, shift));
        const int16x8_t rounded = vqmovn_high_s32(low, round_shift(acc + 16 + 4 * i, shift));
        const int16x8_t clamped = vmaxq_s16(vminq_s16(rounded, limit), vnegq_s16(limit));
        const uint16x8_t open = vcgtzq_s16(vmovl_s8(vld1_s8(y + 8 * i)));
        saturated = vsubq_u16(saturated, vbicq_u16(open, vceqq_s16(clamped, rounded)));
        vst1_s8(d + 8 * i, vmovn_s16(vandq_s16(clamped, vreinterpretq_s16_u16(open))));
    }
    return vaddvq_u16(saturated);
}

/* ---- facts about inputs, and their other orders ------------------------------------------------------------------ */

INLINE uint8_t or_bytes(uint8x16_t x)
{
    uint64_t bits = vgetq_lane_u64(vreinterpretq_u64_u8(x), 0) | vgetq_lane_u64(vreinterpretq_u64_u8(x), 1);
    for (int half = 32; half >= 8; half /= 2)
        bits |= bits >> half;
    return (uint8_t)bits;
}

static size_t census_s8_neon(const int8_t *x, size_t count, uint8_t *bits)
{
    uint8x16_t all = vdupq_n_u8(0);
    uint32x4_t ones = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const uint8x16_t v = vreinterpretq_u8_s8(vld1q_s8(x + i));
        all = vorrq_u8(all, v);
        ones = vpadalq_u16(ones, vpaddlq_u8(vshrq_n_u8(vtstq_u8(v, v), 7)));
    }
    *bits |= or_bytes(all);
    return vaddvq_u32(ones) + below.census_s8(x + i, count - i, bits);
}

static size_t census_s16_neon(const int16_t *x, size_t count, int16_t *low, int16_t *high)
{
    int16x8_t least = vdupq_n_s16(*low), most = vdupq_n_s16(*high);
    uint32x4_t ones = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const int16x8_t v = vld1q_s16(x + i);
        least = vminq_s16(least, v);
        most = vmaxq_s16(most, v);
        ones = vpadalq_u16(ones, vshrq_n_u16(vtstq_s16(v, v), 15));
    }
    *low = vminvq_s16(least);
    *high = vmaxvq_s16(most);
    return vaddvq_u32(ones) + below.census_s16(x + i, count - i, low, high);
}

INLINE void add_words(int32_t *sums, int16x8_t words)
{
    add_to(sums, vmovl_s16(vget_low_s16(words)));
    add_to(sums + 4, vmovl_high_s16(words));
}

static void tally_s8_neon(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum, uint32_t *nonzeros)
{
    for (size_t c = 0; c < columns; c += 16) {
        int16x8_t low = vdupq_n_s16(0), high = low;
        uint8x16_t count = vdupq_n_u8(0);
        for (size_t r = 0; r < rows; r++) { /* 255 bytes fit in a word, 255 ones in a byte */
            const int8x16_t v = vld1q_s8(x + r * ld + c);
            low = vaddw_s8(low, vget_low_s8(v));
            high = vaddw_high_s8(high, v);
            count = vsubq_u8(count, vtstq_s8(v, v));
        }
        add_words(sum + c, low);
        add_words(sum + c + 8, high);
        add_words((int32_t *)nonzeros + c, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(count))));
        add_words((int32_t *)nonzeros + c + 8, vreinterpretq_s16_u16(vmovl_high_u8(count)));
    }
}

INLINE int8x16_t row_or_zeros(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld)
{
    return i < rows ? vld1q_s8(x + row[i] * ld) : vdupq_n_s8(0);
}

/* Four rounds of this turn 16 rows of 16 columns around. */
INLINE void interleave(const int8x16_t from[16], int8x16_t to[16])
{
    for (int r = 0; r < 8; r++) {
        to[2 * r] = vzip1q_s8(from[r], from[r + 8]);
        to[2 * r + 1] = vzip2q_s8(from[r], from[r + 8]);
    }
}

static void transpose_s8_neon(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns, int8_t *out,
                              size_t ld_out)
{
    for (size_t i = 0; i < rows; i += 16)
        for (size_t c = 0; c < columns; c += 16) {
            int8x16_t a[16], b[16];
            for (size_t r = 0; r < 16; r++)
                a[r] = row_or_zeros(x + c, row, i + r, rows, ld);
            interleave(a, b);
            interleave(b, a);
            interleave(a, b);
            interleave(b, a);
            for (size_t r = 0; r < 16; r++)
                vst1q_s8(out + (c + r) * ld_out + i, a[r]);
        }
}

/* Rows i .. i + 3 of one panel. */
INLINE void pack_four(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld, int8_t *quads,
                      int8_t *out_rows)
{
    int8x16x4_t half[2]; /* of the lanes */
    for (size_t k = 0; k < 4; k++) {
        const int8x16_t first = row_or_zeros(x, row, i + k, rows, ld), second = row_or_zeros(x + 16, row, i + k, rows, ld);
        const int32x4x2_t lanes = vuzpq_s32(vreinterpretq_s32_s8(first), vreinterpretq_s32_s8(second));
        half[0].val[k] = vreinterpretq_s8_s32(lanes.val[0]);
        half[1].val[k] = vreinterpretq_s8_s32(lanes.val[1]);
        if (out_rows) {
            vst1q_s8(out_rows + sppim_in_rows(i + k, 0), first);
            vst1q_s8(out_rows + sppim_in_rows(i + k, 16), second);
        }
    }
    for (size_t h = 0; quads && h < 2; h++)
        vst4q_s8(quads + sppim_in_quads(i, 16 * h), half[h]);
}

static void pack_s8_neon(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, int8_t *quads, size_t quad_stride,
                         int8_t *out_rows)
{
    for (size_t i = 0; i < rows; i += 4)
        for (size_t p = 0; p < 2; p++)
            pack_four(x + p * SPPIM_PANEL, row, i, rows, ld, quads ? quads + p * quad_stride : NULL,
                      out_rows ? out_rows + p * SPPIM_PANEL : NULL);
}

/* ---- update ------------------------------------------------------------------------------------------------------ */

/* A3.1 */
INLINE uint32x4_t mix32(uint32x4_t x)
{
    x = veorq_u32(x, vshrq_n_u32(x, 16));
    x = vmulq_n_u32(x, 0x85EBCA6Bu);
    x = veorq_u32(x, vshrq_n_u32(x, 13));
    x = vmulq_n_u32(x, 0xC2B2AE35u);
    return veorq_u32(x, vshrq_n_u32(x, 16));
}

/* Eight consecutive numbers of 16 bits, beginning with both of number i. */
INLINE uint16x8_t draw16(const sppim_update *u, uint32_t i)
{
    static const uint32_t steps[4] = {0, 1, 2, 3};
    const uint32x4_t number = vaddq_u32(vdupq_n_u32(i), vld1q_u32(steps));
    return vreinterpretq_u16_u32(mix32(vaddq_u32(veorq_u32(number, vdupq_n_u32(u->k1)), vdupq_n_u32(u->k0))));
}

/* A3.4: the numbers of 32 columns, by lane. */
INLINE void draw_lanes(const sppim_update *u, uint32_t first, uint16x8_t lanes[4])
{
    uint16x8_t drawn[4];
    for (uint32_t i = 0; i < 4; i++)
        drawn[i] = draw16(u, first / 2 + 4 * i);
    if (first % 2) {
        for (int i = 0; i < 3; i++)
            drawn[i] = vextq_u16(drawn[i], drawn[i + 1], 1);
        drawn[3] = vextq_u16(drawn[3], draw16(u, first / 2 + 16), 1);
    }
    for (int i = 0; i < 2; i++) {
        const uint64x2_t a = vreinterpretq_u64_u16(drawn[2 * i]), b = vreinterpretq_u64_u16(drawn[2 * i + 1]);
        lanes[i] = vreinterpretq_u16_u64(vzip1q_u64(a, b));
        lanes[2 + i] = vreinterpretq_u16_u64(vzip2q_u64(a, b));
    }
}

/* A1.2 and the difference of A7.3, which saturates where the clamp would act anyway. The gradient is shifted so that
 * its integer part begins at bit 16: in 32 bits where it is known to fit, else in 64. */
INLINE int16x4_t stepped(int16x4_t w, int32x4_t g, uint16x4_t random, int shift, bool narrow)
{
    const uint32x4_t u = vmovl_u16(random);
    if (narrow)
        return vqsub_s16(w, vaddhn_s32(vshlq_s32(g, vdupq_n_s32(16 - shift)), vreinterpretq_s32_u32(u)));
    const int64x2_t up = vdupq_n_s64(16 - shift), wide_u0 = vreinterpretq_s64_u64(vmovl_u32(vget_low_u32(u)));
    const int64x2_t wide_u1 = vreinterpretq_s64_u64(vmovl_high_u32(u));
    const int32x2_t q0 = vshrn_n_s64(vaddq_s64(vshlq_s64(vmovl_s32(vget_low_s32(g)), up), wide_u0), 16);
    const int32x4_t q = vshrn_high_n_s64(q0, vaddq_s64(vshlq_s64(vmovl_high_s32(g), up), wide_u1), 16);
    return vqmovn_s32(vqsubq_s32(vmovl_s16(w), q));
}

/* New weights of eight lanes; adds 1 to the places of `clipped` where one is. */
INLINE int16x8_t new_weights(int16x8_t w, const int32_t *gradient, uint16x8_t u, int shift, bool narrow, uint16x8_t *clipped)
{
    const int16x8_t limit = vdupq_n_s16(SPPIM_WEIGHT_MAX);
    const int16x8_t exact =
        vcombine_s16(stepped(vget_low_s16(w), vld1q_s32(gradient), vget_low_u16(u), shift, narrow),
                     stepped(vget_high_s16(w), vld1q_s32(gradient + 4), vget_high_u16(u), shift, narrow));
    const int16x8_t next = vmaxq_s16(vminq_s16(exact, limit), vnegq_s16(limit));
    *clipped = vsubq_u16(*clipped, vmvnq_u16(vceqq_s16(next, exact)));
    return next;
}

/* A5.2 */
INLINE int16x8_t product_weights(int16x8_t w, int product_bits)
{
    const int16x8_t most = vdupq_n_s16((int16_t)((1 << (product_bits - 1)) - 1));
    const int16x8_t rounded = vrshlq_s16(w, vdupq_n_s16((int16_t)(product_bits - 16)));
    return vmaxq_s16(vminq_s16(rounded, most), vnegq_s16(most));
}

INLINE void store_row(int8x16_t first, int8x16_t second, int8_t *to)
{
    const int32x4x2_t columns = vzipq_s32(vreinterpretq_s32_s8(first), vreinterpretq_s32_s8(second));
    vst1q_s8(to, vreinterpretq_s8_s32(columns.val[0]));
    vst1q_s8(to + 16, vreinterpretq_s8_s32(columns.val[1]));
}

INLINE void store_words(const int16x8_t v[4], int16_t *to)
{
    for (size_t i = 0; i < 2; i++) {
        vst1q_s16(to + 16 * i, vcombine_s16(vget_low_s16(v[i]), vget_low_s16(v[i + 2])));
        vst1q_s16(to + 16 * i + 8, vcombine_s16(vget_high_s16(v[i]), vget_high_s16(v[i + 2])));
    }
}

INLINE uint8_t count_zeros(const int16x8_t v[4])
{
    uint16x8_t zeros = vdupq_n_u16(0);
    for (int i = 0; i < 4; i++)
        zeros = vsubq_u16(zeros, vceqzq_s16(v[i]));
    return (uint8_t)vaddvq_u16(zeros);
}

/* Two rows of a panel: new weights, and their product weights into v. */
INLINE void update_pair(const sppim_update *u, const int32_t *gradient, size_t ld, uint32_t index, const int16_t *w,
                        int16_t *w_next, bool narrow, uint16x8_t *clipped, int16x8_t v[2][4])
{
    uint16x8_t random[2][4];
    draw_lanes(u, index, random[0]);
    draw_lanes(u, index + (uint32_t)u->columns, random[1]);
    for (size_t i = 0; i < 4; i++) {
        int16x8x2_t pairs = vld2q_s16(w + 16 * i);
        for (size_t r = 0; r < 2; r++) {
            pairs.val[r] = new_weights(pairs.val[r], gradient + r * ld + 8 * i, random[r][i], u->shift, narrow, clipped);
            v[r][i] = product_weights(pairs.val[r], u->product_bits);
        }
        vst2q_s16(w_next + 16 * i, pairs);
    }
}

/* Rows r and r + 1 of a panel, all but quads; gradient: of row r. bytes: their product weights, by halves of the
 * lanes. */
INLINE void update_two(const sppim_update *u, const int32_t *gradient, size_t ld, size_t r, uint32_t index,
                       const sppim_update_rows *panel, bool narrow, uint16x8_t *clipped, int8x16_t bytes[2][2])
{
    int16x8_t v[2][4];
    update_pair(u, gradient, ld, index + (uint32_t)(r * u->columns), panel->w + r * SPPIM_PANEL,
                panel->w_next + r * SPPIM_PANEL, narrow, clipped, v);
    for (size_t i = 0; panel->pairs && i < 4; i++) {
        const int16x8x2_t pairs = {{v[0][i], v[1][i]}};
        vst2q_s16(panel->pairs + r * SPPIM_PANEL + 16 * i, pairs);
    }
    for (size_t k = 0; k < 2; k++) {
        bytes[0][k] = vmovn_high_s16(vmovn_s16(v[k][0]), v[k][1]);
        bytes[1][k] = vmovn_high_s16(vmovn_s16(v[k][2]), v[k][3]);
        if (panel->rows)
            store_row(bytes[0][k], bytes[1][k], panel->rows + (r + k) * SPPIM_GROUP);
        if (panel->words)
            store_words(v[k], panel->words + (r + k) * SPPIM_GROUP);
        panel->zeros[r + k] = count_zeros(v[k]);
    }
}

/* Four rows; gradient: of row r. */
INLINE size_t update_four(const sppim_update *u, const int32_t *gradient, size_t ld, size_t r, uint32_t index,
                          const sppim_update_rows *panel, bool narrow)
{
    uint16x8_t clipped = vdupq_n_u16(0);
    int8x16_t first[2][2], second[2][2];
    update_two(u, gradient, ld, r, index, panel, narrow, &clipped, first);
    update_two(u, gradient + 2 * ld, ld, r + 2, index, panel, narrow, &clipped, second);
    for (size_t h = 0; panel->quads && h < 2; h++) {
        const int8x16x4_t quads = {{first[h][0], first[h][1], second[h][0], second[h][1]}};
        vst4q_s8(panel->quads + r * SPPIM_PANEL + 64 * h, quads);
    }
    return vaddvq_u16(clipped);
}

static bool vectorized(const sppim_update *u) { return u->round == SPPIM_SR && u->shift <= 16; }

static size_t update_s16_neon(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                              sppim_update_rows panel)
{
    if (!vectorized(u))
        return below.update_s16(u, gradient, ld, rows, index, panel);
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r += 4)
        clipped += u->narrow ? update_four(u, gradient + r * ld, ld, r, index, &panel, true)
                             : update_four(u, gradient + r * ld, ld, r, index, &panel, false);
    return clipped;
}

/* Gradients have at most 16 bits: they are narrow. */
static size_t update_outer_s16_neon(const sppim_update *u, const int16_t *row, const int16_t *error, const uint16_t *pair,
                                    size_t pairs, uint32_t index, sppim_update_rows panel)
{
    if (!vectorized(u))
        return below.update_outer_s16(u, row, error, pair, pairs, index, panel);
    const size_t rows = panel.quads ? 4 : 2;
    size_t total = 0;
    for (size_t i = 0; i < pairs; i += rows / 2) {
        const size_t r = 2 * (size_t)pair[i];
        int32_t gradient[4 * SPPIM_PANEL];
        int8x16_t unused[2][2];
        uint16x8_t clipped = vdupq_n_u16(0);
        for (size_t k = 0; k < rows * SPPIM_PANEL; k += 4)
            vst1q_s32(gradient + k, vmull_n_s16(vld1_s16(error + k % SPPIM_PANEL), row[r + k / SPPIM_PANEL]));
        if (panel.quads)
            total += update_four(u, gradient, SPPIM_PANEL, r, index, &panel, true);
        else
            update_two(u, gradient, SPPIM_PANEL, r, index, &panel, true, &clipped, unused);
        total += vaddvq_u16(clipped);
    }
    return total;
}

void sppim_kernels_install_neon(sppim_kernels *table)
{
    below = *table;
    table->census_s8 = census_s8_neon;
    table->census_s16 = census_s16_neon;
    table->tally_s8 = tally_s8_neon;
    table->transpose_s8 = transpose_s8_neon;
    table->pack_s8 = pack_s8_neon;
    table->product_s8 = product_s8_neon;
    table->product_s16 = product_s16_neon;
    table->product_sparse_s8 = product_sparse_s8_neon;
    table->product_sparse_s16s8 = product_sparse_s16s8_neon;
    table->product_sparse_s16 = product_sparse_s16_neon;
    table->product_finite_s16 = product_finite_s16_neon;
    table->requantize_relu_s32 = requantize_relu_s32_neon;
    table->gate_s32 = gate_s32_neon;
    table->update_s16 = update_s16_neon;
    table->update_outer_s16 = update_outer_s16_neon;
}

#endif
