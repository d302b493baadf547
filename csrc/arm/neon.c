/* Advanced SIMD of ARMv8.0, without dot products. Four lanes of a panel are consecutive columns, so that the way from one
 * order to the other is an order of vectors, or an interleaving of 32-bit words. */
#include "../fixed.h"
#include "../kernels.h"

#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__AARCH64EL__)

#include <arm_neon.h>

#define INLINE __attribute__((always_inline)) static inline

/* An array lives in registers only if GCC unrolls the loops over it early. */
#ifdef __clang__
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

enum { TILE_ROWS = 4 };

static sppim_kernels below; /* for what the vector code leaves over */

/* Modulo 2^32: the header of GCC makes vaddq_s32 a signed sum. */
INLINE int32x4_t add(int32x4_t a, int32x4_t b)
{
    return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

INLINE void add_to(int32_t *sums, int32x4_t x) { vst1q_s32(sums, add(vld1q_s32(sums), x)); }

/* ---- products of bytes --------------------------------------------------------------------------------------------- */

/* Two products of signed bytes are summed in a word before they are widened, but twice (-128)(-128) is one more than a word
 * holds. Hence stored bytes b are taken as b - 128 and, every second time, as 127 - b to be subtracted: sums lie within
 * +-32640. What this leaves out, 128 and 127 times the operands, follows from the operands alone. */
INLINE int8x16_t even_bytes(const uint8_t *b) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(b), vdupq_n_u8(128))); }
INLINE int8x16_t odd_bytes(const uint8_t *b) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(b), vdupq_n_u8(127))); }

INLINE int16x8_t low_products(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd)
{
    return vmlsl_s8(vmull_s8(vget_low_s8(even), vget_low_s8(x_even)), vget_low_s8(odd), vget_low_s8(x_odd));
}

INLINE int16x8_t high_products(int8x16_t even, int8x16_t odd, int8x16_t x_even, int8x16_t x_odd)
{
    return vmlsl_high_s8(vmull_high_s8(even, x_even), odd, x_odd);
}

/* The operands of two steps; of the last one, and zeros. */
INLINE int8x8_t load_steps(const int8_t *x, size_t steps)
{
    uint64_t both = 0;
    __builtin_memcpy(&both, x, steps == 1 ? 4 : 8);
    return vcreate_s8(both);
}

static int32_t left_out_s8(const int8_t *x, size_t steps)
{
    const int8x8_t taken = vcreate_s8(0x8181818180808080u); /* -128 and -127 */
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t s = 0; s < steps; s += 2)
        sum = vpadalq_s16(sum, vmull_s8(load_steps(x + 4 * s, steps - s), taken));
    return -vaddvq_s32(sum);
}

/* Adds two steps to acc, which holds two sums of each lane side by side; lanes is a constant wherever this is inlined. */
INLINE void two_steps_s8(int8x8_t x, size_t lanes, const uint8_t *even, const uint8_t *odd, int32x4_t *acc)
{
    const int32x2_t both = vreinterpret_s32_s8(x);
    const int8x16_t x0 = vreinterpretq_s8_s32(vdupq_lane_s32(both, 0)), x1 = vreinterpretq_s8_s32(vdupq_lane_s32(both, 1));
    for (size_t v = 0; v < lanes / 4; v++) {
        const int8x16_t w0 = even_bytes(even + 16 * v), w1 = odd_bytes(odd + 16 * v);
        acc[2 * v] = vpadalq_s16(acc[2 * v], low_products(w0, w1, x0, x1));
        acc[2 * v + 1] = vpadalq_s16(acc[2 * v + 1], high_products(w0, w1, x0, x1));
    }
}

/* rows and lanes are constants wherever this is inlined, their product at most 32: sums fill 16 of the 32 registers. */
INLINE void tile_s8(const int8_t *x, size_t ld, size_t rows, size_t steps, const uint8_t *quads, size_t lanes, int32_t *sums)
{
    int32x4_t acc[TILE_ROWS][8];
    for (size_t r = 0; r < rows; r++)
        for (size_t v = 0; v < lanes / 2; v++)
            acc[r][v] = vdupq_n_s32(0);
    size_t s = 0;
    for (; s + 2 <= steps; s += 2)
        for (size_t r = 0; r < rows; r++)
            two_steps_s8(load_steps(x + r * ld + 4 * s, 2), lanes, quads + 128 * s, quads + 128 * (s + 1), acc[r]);
    for (size_t r = 0; s < steps && r < rows; r++)
        two_steps_s8(load_steps(x + r * ld + 4 * s, 1), lanes, quads + 128 * s, quads + 128 * s, acc[r]);
    for (size_t r = 0; r < rows; r++)
        for (size_t v = 0; v < lanes / 4; v++)
            vst1q_s32(sums + r * SPPIM_PANEL + 4 * v, vpaddq_s32(acc[r][2 * v], acc[r][2 * v + 1]));
}

INLINE void store_sums(int32x4_t sums, size_t lane, int32_t *out, int order)
{
    vst1q_s32(out + (order == SPPIM_LANES ? lane : sppim_lane_column(lane)), sums);
}

static void end_row(const int32_t *sums, sppim_start start, size_t r, int32_t left_out, int32_t *out, int order)
{
    const int32x4_t rest = add(vdupq_n_s32(start.shift ? start.shift[r] : 0), vdupq_n_s32(left_out));
    for (size_t lane = 0; lane < SPPIM_PANEL; lane += 4) {
        const int32x4_t column = start.column ? vld1q_s32(start.column + lane) : vdupq_n_s32(0);
        const int32x4_t begin = vmlaq_n_s32(rest, column, start.scale ? start.scale[r] : 1);
        store_sums(add(begin, vld1q_s32(sums + lane)), lane, out, order);
    }
}

static void product_s8_neon(const int8_t *x, size_t ld, size_t rows, size_t steps, const uint8_t *quads, sppim_start start,
                            int32_t *out, size_t ld_out, int order)
{
    for (size_t r = 0, count; r < rows; r += count) {
        int32_t sums[TILE_ROWS * SPPIM_PANEL];
        count = rows - r < TILE_ROWS ? 1 : TILE_ROWS;
        for (size_t lane = 0; count == 1 && lane < SPPIM_PANEL; lane += 16)
            tile_s8(x + r * ld, ld, 1, steps, quads + 4 * lane, 16, sums + lane);
        for (size_t lane = 0; count == TILE_ROWS && lane < SPPIM_PANEL; lane += 8)
            tile_s8(x + r * ld, ld, TILE_ROWS, steps, quads + 4 * lane, 8, sums + lane);
        for (size_t i = r; i < r + count; i++)
            end_row(sums + (i - r) * SPPIM_PANEL, start, i, left_out_s8(x + i * ld, steps), out + i * ld_out, order);
    }
}

/* One panel of rows; planes is a constant wherever this is inlined. */
INLINE void sparse_s8(sppim_nonzeros x, const uint8_t *rows, int planes, const int32_t *left_out, int32_t *const *sums)
{
    int32x4_t acc[2][2][4]; /* by plane; columns 8 v .. 8 v + 3 and the next four */
    for (int p = 0; p < planes; p++)
        for (int i = 0; i < 8; i++)
            acc[p][i / 4][i % 4] = vdupq_n_s32(left_out[p]);
    for (size_t i = 0; i < x.count; i += 2) {
        const uint8_t *r0 = rows + x.index[i] * SPPIM_GROUP, *r1 = rows + x.index[i + 1] * SPPIM_GROUP;
        for (size_t h = 0; h < 2; h++) {
            const int8x16_t w0 = even_bytes(r0 + 16 * h), w1 = odd_bytes(r1 + 16 * h);
            for (int p = 0; p < planes; p++) {
                const int8_t *value = (p ? x.high : x.value) + i;
                const int16x8_t low = low_products(w0, w1, vdupq_n_s8(value[0]), vdupq_n_s8(value[1]));
                const int16x8_t high = high_products(w0, w1, vdupq_n_s8(value[0]), vdupq_n_s8(value[1]));
                acc[p][0][2 * h] = vaddw_s16(acc[p][0][2 * h], vget_low_s16(low));
                acc[p][1][2 * h] = vaddw_high_s16(acc[p][1][2 * h], low);
                acc[p][0][2 * h + 1] = vaddw_s16(acc[p][0][2 * h + 1], vget_low_s16(high));
                acc[p][1][2 * h + 1] = vaddw_high_s16(acc[p][1][2 * h + 1], high);
            }
        }
    }
    for (int p = 0; p < planes; p++)
        for (int i = 0; i < 8; i++)
            add_to(sums[p] + 4 * i, acc[p][i / 4][i % 4]);
}

static int32_t left_out_sparse_s8(const int8_t *value, size_t count)
{
    int32_t sum = 0;
    for (size_t i = 0; value && i < count; i++)
        sum += value[i] * (i % 2 ? 127 : 128);
    return sum;
}

static void product_sparse_s8_neon(sppim_nonzeros x, const uint8_t *rows, size_t group_stride, size_t groups, int32_t *acc,
                                   int32_t *acc_high)
{
    const int32_t left_out[2] = {left_out_sparse_s8(x.value, x.count), left_out_sparse_s8(x.high, x.count)};
    for (size_t p = 0; p < 2 * groups; p++) {
        const uint8_t *panel = rows + p / 2 * group_stride + p % 2 * SPPIM_PANEL;
        int32_t *const sums[2] = {acc + p * SPPIM_PANEL, x.high ? acc_high + p * SPPIM_PANEL : NULL};
        if (x.high)
            sparse_s8(x, panel, 2, left_out, sums);
        else
            sparse_s8(x, panel, 1, left_out, sums);
    }
}

/* ---- products of words --------------------------------------------------------------------------------------------- */

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

INLINE void tile_s16(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, size_t lanes,
                     int32_t *out, size_t ld_out, int order)
{
    for (size_t first = 0; first < SPPIM_PANEL; first += lanes) {
        int32x4_t acc[TILE_ROWS][8];
        for (size_t r = 0; r < rows; r++)
            for (size_t v = 0; v < lanes / 4; v++)
                acc[r][v] = vdupq_n_s32(0);
        for (size_t s = 0; s < steps; s++)
            for (size_t r = 0; r < rows; r++)
                step_s16(load_two(x + r * ld + 2 * s), lanes, pairs + 64 * s + 2 * first, acc[r]);
        for (size_t r = 0; r < rows; r++)
            for (size_t v = 0; v < lanes / 4; v++)
                store_sums(acc[r][v], first + 4 * v, out + r * ld_out, order);
    }
}

static void product_s16_neon(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int32_t *out,
                             size_t ld_out, int order)
{
    size_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile_s16(x + r * ld, ld, TILE_ROWS, steps, pairs, 16, out + r * ld_out, ld_out, order);
    for (; r < rows; r++)
        tile_s16(x + r * ld, ld, 1, steps, pairs, 32, out + r * ld_out, ld_out, order);
}

/* Adds one row of a panel: the other row of its pairs meets 0. */
INLINE void add_row_s16(int16_t value, uint16_t index, const int16_t *pairs, int32x4_t acc[8])
{
    const uint32_t word = (uint16_t)value;
    step_s16(vcreate_s16(index % 2 ? word << 16 : word), SPPIM_PANEL, pairs + index / 2 * 2 * SPPIM_PANEL, acc);
}

static void product_sparse_s16_neon(sppim_nonzeros x, const int16_t *pairs, int32_t *sums)
{
    int32x4_t acc[8];
    UNROLLED for (int v = 0; v < 8; v++)
        acc[v] = vld1q_s32(sums + 4 * v);
    for (size_t i = 0; i < x.count; i++)
        add_row_s16(x.value16[i], x.index[i], pairs, acc);
    UNROLLED for (int v = 0; v < 8; v++)
        vst1q_s32(sums + 4 * v, acc[v]);
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

/* ---- activations and errors ---------------------------------------------------------------------------------------- */

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

static void widen_s32_neon(const int32_t *sum, size_t count, int64_t *acc)
{
    for (size_t i = 0; i < count; i += 4) {
        const int32x4_t four = vld1q_s32(sum + i);
        vst1q_s64(acc + i, vaddw_s32(vld1q_s64(acc + i), vget_low_s32(four)));
        vst1q_s64(acc + i + 2, vaddw_high_s32(vld1q_s64(acc + i + 2), four));
    }
}

/* ---- facts about inputs, and their other orders -------------------------------------------------------------------- */

static size_t census_s8_neon(const int8_t *x, size_t count, int32_t *sum)
{
    int32x4_t sums = vdupq_n_s32(0);
    uint32x4_t ones = vdupq_n_u32(0);
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const int8x16_t v = vld1q_s8(x + i);
        sums = vpadalq_s16(sums, vpaddlq_s8(v));
        ones = vpadalq_u16(ones, vpaddlq_u8(vshrq_n_u8(vtstq_s8(v, v), 7)));
    }
    const size_t rest = below.census_s8(x + i, count - i, sum);
    *sum += vaddvq_s32(sums);
    return vaddvq_u32(ones) + rest;
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

static void pack_s8_neon(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, uint8_t *quads, size_t quad_stride,
                         uint8_t *out_rows)
{
    for (size_t i = 0; i < rows; i += 4)
        for (size_t p = 0; p < 2; p++) {
            uint8x16x4_t half[2]; /* of the lanes */
            for (size_t k = 0; k < 4; k++) {
                const int8_t *from = x + p * SPPIM_PANEL;
                uint8_t *to = out_rows + (i + k) * SPPIM_GROUP + p * SPPIM_PANEL;
                uint8x16_t v[2];
                for (size_t h = 0; h < 2; h++) {
                    v[h] = vreinterpretq_u8_s8(row_or_zeros(from + 16 * h, row, i + k, rows, ld));
                    v[h] = veorq_u8(v[h], vdupq_n_u8(SPPIM_OFFSET));
                    vst1q_u8(to + 16 * h, v[h]);
                }
                const uint32x4x2_t lanes = vuzpq_u32(vreinterpretq_u32_u8(v[0]), vreinterpretq_u32_u8(v[1]));
                half[0].val[k] = vreinterpretq_u8_u32(lanes.val[0]);
                half[1].val[k] = vreinterpretq_u8_u32(lanes.val[1]);
            }
            vst4q_u8(quads + p * quad_stride + i * SPPIM_PANEL, half[0]);
            vst4q_u8(quads + p * quad_stride + i * SPPIM_PANEL + 64, half[1]);
        }
}

/* ---- update -------------------------------------------------------------------------------------------------------- */

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

/* A1.2 and the difference of A7.3, which saturates where the clamp would act anyway. The gradient is shifted so that its
 * integer part begins at bit 16: in 32 bits where it is known to fit, else in 64. */
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

INLINE uint8x16_t stored_bytes(int16x8_t low, int16x8_t high)
{
    return veorq_u8(vreinterpretq_u8_s8(vmovn_high_s16(vmovn_s16(low), high)), vdupq_n_u8(SPPIM_OFFSET));
}

INLINE void store_row(uint8x16_t first, uint8x16_t second, uint8_t *to)
{
    const uint32x4x2_t columns = vzipq_u32(vreinterpretq_u32_u8(first), vreinterpretq_u32_u8(second));
    vst1q_u8(to, vreinterpretq_u8_u32(columns.val[0]));
    vst1q_u8(to + 16, vreinterpretq_u8_u32(columns.val[1]));
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

INLINE size_t update_four(const sppim_update *u, const int32_t *gradient, size_t ld, size_t r0, uint32_t index,
                          const sppim_update_rows *panel, bool narrow)
{
    uint16x8_t clipped = vdupq_n_u16(0);
    uint8x16x4_t half[2]; /* of the lanes */
    for (size_t r = r0; r < r0 + 4; r += 2) {
        int16x8_t v[2][4];
        update_pair(u, gradient + r * ld, ld, index + (uint32_t)(r * u->columns), panel->w + r * SPPIM_PANEL,
                    panel->w_next + r * SPPIM_PANEL, narrow, &clipped, v);
        for (size_t i = 0; panel->pairs && i < 4; i++)
            vst2q_s16(panel->pairs + r * SPPIM_PANEL + 16 * i, (int16x8x2_t){{v[0][i], v[1][i]}});
        for (size_t k = 0; k < 2; k++) {
            const uint8x16_t first = stored_bytes(v[k][0], v[k][1]), second = stored_bytes(v[k][2], v[k][3]);
            if (panel->rows)
                store_row(first, second, panel->rows + (r + k) * SPPIM_GROUP);
            half[0].val[r - r0 + k] = first;
            half[1].val[r - r0 + k] = second;
            panel->zeros[r + k] = count_zeros(v[k]);
        }
    }
    for (size_t h = 0; panel->quads && h < 2; h++)
        vst4q_u8(panel->quads + r0 * SPPIM_PANEL + 64 * h, half[h]);
    return vaddvq_u16(clipped);
}

static size_t update_s16_neon(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                              sppim_update_rows panel)
{
    if (u->round != SPPIM_SR || u->shift > 16)
        return below.update_s16(u, gradient, ld, rows, index, panel);
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r += 4)
        clipped += u->narrow ? update_four(u, gradient, ld, r, index, &panel, true)
                             : update_four(u, gradient, ld, r, index, &panel, false);
    return clipped;
}

void sppim_kernels_install_neon(sppim_kernels *table)
{
    below = *table;
    table->census_s8 = census_s8_neon;
    table->tally_s8 = tally_s8_neon;
    table->transpose_s8 = transpose_s8_neon;
    table->pack_s8 = pack_s8_neon;
    table->product_s8 = product_s8_neon;
    table->product_s16 = product_s16_neon;
    table->product_sparse_s8 = product_sparse_s8_neon;
    table->product_sparse_s16 = product_sparse_s16_neon;
    table->product_finite_s16 = product_finite_s16_neon;
    table->requantize_relu_s32 = requantize_relu_s32_neon;
    table->widen_s32 = widen_s32_neon;
    table->gate_s32 = gate_s32_neon;
    table->update_s16 = update_s16_neon;
}

#endif
