/* The kernels of both AVX-512 levels. The including file has defined, for its level,
 *   FUNCTION, INLINE  function attributes with the target
 *   LEVEL(name)       the name of a kernel
 *   DOT8(acc, u8, s8), DOT16(acc, s16, s16)  acc + products of quads, of pairs, in each 32-bit lane
 *   BYTE_TILE_ROWS    rows of a tile of 8-bit products whose sums stay in registers, at most TILE_ROWS
 *   SPARSE_GROUPS     groups of columns of which the same holds where zeros are skipped: 4 or 2 */
#include <immintrin.h>

#include "../fixed.h"
#include "../kernels.h"

#define TILE_ROWS 12 /* rows whose sums stay in registers: 24 of the 32, beside two of weights and one of operands */

/* Two vectors of a panel, by lane, to its columns 0..15 and 16..31; also the step from four vectors of interleaved
 * bytes to lanes. */
INLINE __m512i first_half(__m512i a, __m512i b)
{
    return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b);
}

INLINE __m512i second_half(__m512i a, __m512i b)
{
    return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b);
}

/* x in a register: gcc 12 would build a constant anew, from general registers, or load a value again, at every use. */
INLINE __m512i keep(__m512i x)
{
    __asm__("" : "+v"(x));
    return x;
}

/* Four bytes, or two words, of an operand in every lane. */
INLINE __m512i broadcast(const void *x)
{
    int32_t both;
    __builtin_memcpy(&both, x, sizeof both);
    return _mm512_set1_epi32(both);
}

/* ---- dense products ---------------------------------------------------------------------------------------------- */

INLINE void clear_sums(int rows, __m512i acc[][2])
{
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_si512();
}

/* What happens to the sums of a tile. Each case has a loop of its own: a branch inside the loop would drive the sums
 * out of their registers. */
INLINE void begin_tile(__m512i acc[][2], int rows, sppim_start start, size_t r0)
{
    if (!start.column)
        return;
    const __m512i c0 = _mm512_loadu_si512(start.column), c1 = _mm512_loadu_si512(start.column + 16);
    if (start.scale) {
        for (int r = 0; r < rows; r++) {
            const __m512i scale = _mm512_set1_epi32(start.scale[r0 + (size_t)r]);
            acc[r][0] = _mm512_add_epi32(acc[r][0], _mm512_mullo_epi32(c0, scale));
            acc[r][1] = _mm512_add_epi32(acc[r][1], _mm512_mullo_epi32(c1, scale));
        }
    } else {
        for (int r = 0; r < rows; r++) {
            acc[r][0] = _mm512_add_epi32(acc[r][0], c0);
            acc[r][1] = _mm512_add_epi32(acc[r][1], c1);
        }
    }
}

INLINE void store_tile(__m512i acc[][2], int rows, int32_t *out, size_t ld_out, int order)
{
    if (order == SPPIM_LANES) {
        for (int r = 0; r < rows; r++) {
            _mm512_storeu_si512(out + (size_t)r * ld_out, acc[r][0]);
            _mm512_storeu_si512(out + (size_t)r * ld_out + 16, acc[r][1]);
        }
    } else {
        for (int r = 0; r < rows; r++) {
            _mm512_storeu_si512(out + (size_t)r * ld_out, first_half(acc[r][0], acc[r][1]));
            _mm512_storeu_si512(out + (size_t)r * ld_out + 16, second_half(acc[r][0], acc[r][1]));
        }
    }
}

/* x as unsigned bytes. flip is a constant wherever this is inlined. */
INLINE __m512i unsigned_operand(__m512i x, int flip)
{
    return flip ? _mm512_xor_si512(x, _mm512_set1_epi8((char)flip)) : x;
}

/* rows and flip are constants wherever this is inlined, so that acc lives in registers. */
INLINE void tile_s8(const int8_t *x, size_t ld, int rows, size_t steps, int flip, const int8_t *quads, __m512i acc[][2])
{
    for (size_t s = 0; s < steps; s++) {
        const __m512i w0 = _mm512_loadu_si512(quads + 128 * s), w1 = _mm512_loadu_si512(quads + 128 * s + 64);
        for (int r = 0; r < rows; r++) {
            const __m512i operand = unsigned_operand(broadcast(x + (size_t)r * ld + 4 * s), flip);
            DOT8(acc[r][0], operand, w0);
            DOT8(acc[r][1], operand, w1);
        }
    }
}

INLINE void tile_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, __m512i acc[][2])
{
    for (size_t s = 0; s < steps; s++) {
        const __m512i w0 = _mm512_loadu_si512(pairs + 64 * s), w1 = _mm512_loadu_si512(pairs + 64 * s + 32);
        for (int r = 0; r < rows; r++) {
            const __m512i operand = broadcast(x + (size_t)r * ld + 2 * s);
            DOT16(acc[r][0], w0, operand);
            DOT16(acc[r][1], w1, operand);
        }
    }
}

/* One row leaves no other independent sums than those of different steps: four sets of them hide the latency. */
INLINE void row_s8(const int8_t *x, size_t steps, int flip, const int8_t *quads, __m512i acc[][2])
{
    __m512i part[4][2];
    for (int i = 0; i < 4; i++)
        part[i][0] = part[i][1] = _mm512_setzero_si512();
    size_t s = 0;
    for (; s + 4 <= steps; s += 4)
        for (size_t i = 0; i < 4; i++)
            tile_s8(x + 4 * (s + i), 0, 1, 1, flip, quads + 128 * (s + i), part + i);
    tile_s8(x + 4 * s, 0, 1, steps - s, flip, quads + 128 * s, part);
    for (int v = 0; v < 2; v++)
        acc[0][v] = _mm512_add_epi32(_mm512_add_epi32(acc[0][v], part[0][v]),
                                     _mm512_add_epi32(_mm512_add_epi32(part[1][v], part[2][v]), part[3][v]));
}

INLINE void row_s16(const int16_t *x, size_t steps, const int16_t *pairs, __m512i acc[][2])
{
    __m512i part[4][2];
    for (int i = 0; i < 4; i++)
        part[i][0] = part[i][1] = _mm512_setzero_si512();
    size_t s = 0;
    for (; s + 4 <= steps; s += 4)
        for (size_t i = 0; i < 4; i++)
            tile_s16(x + 2 * (s + i), 0, 1, 1, pairs + 64 * (s + i), part + i);
    tile_s16(x + 2 * s, 0, 1, steps - s, pairs + 64 * s, part);
    for (int v = 0; v < 2; v++)
        acc[0][v] = _mm512_add_epi32(_mm512_add_epi32(acc[0][v], part[0][v]),
                                     _mm512_add_epi32(_mm512_add_epi32(part[1][v], part[2][v]), part[3][v]));
}

#define EACH_SMALL_TILE(X) X(2) X(3) X(4) X(5) X(6)
#define EACH_TILE(X) EACH_SMALL_TILE(X) X(7) X(8) X(9) X(10) X(11) X(12)
#if BYTE_TILE_ROWS == TILE_ROWS
#define EACH_BYTE_TILE EACH_TILE
#else
#define EACH_BYTE_TILE EACH_SMALL_TILE
#endif

INLINE void block_s8(const int8_t *x, size_t ld, int rows, size_t steps, int flip, const int8_t *quads, sppim_start start,
                     size_t r0, int32_t *out, size_t ld_out, int order)
{
    __m512i acc[TILE_ROWS][2];
    clear_sums(rows, acc);
    if (rows == 1)
        row_s8(x, steps, flip, quads, acc);
    else
        tile_s8(x, ld, rows, steps, flip, quads, acc);
    begin_tile(acc, rows, start, r0);
    store_tile(acc, rows, out, ld_out, order);
}

INLINE void blocks_s8(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                      sppim_start start, int32_t *out, size_t ld_out, int order)
{
    for (size_t r = 0, count; r < rows; r += count) {
        count = sppim_next_tile(rows - r, BYTE_TILE_ROWS);
        switch (count) {
#define TILE(n) \
    case n: block_s8(x + r * ld, ld, n, steps, flip, quads, start, r, out + r * ld_out, ld_out, order); break;
            EACH_BYTE_TILE(TILE)
#undef TILE
        default: block_s8(x + r * ld, ld, 1, steps, flip, quads, start, r, out + r * ld_out, ld_out, order);
        }
    }
}

FUNCTION static void LEVEL(product_s8)(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                                       sppim_start start, int32_t *out, size_t ld_out, int order)
{
    if (flip == SPPIM_SIGNED)
        blocks_s8(x, ld, rows, steps, SPPIM_SIGNED, quads, start, out, ld_out, order);
    else
        blocks_s8(x, ld, rows, steps, SPPIM_UNSIGNED, quads, start, out, ld_out, order);
}

/* start + 2^shift sums of 16 columns. */
INLINE void store_wide(__m512i sums, __m128i shift, const int64_t *start, int64_t *out)
{
    const __m512i low = _mm512_sll_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums)), shift);
    const __m512i high = _mm512_sll_epi64(_mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums, 1)), shift);
    _mm512_storeu_si512(out, _mm512_add_epi64(_mm512_loadu_si512(start), low));
    _mm512_storeu_si512(out + 8, _mm512_add_epi64(_mm512_loadu_si512(start + 8), high));
}

INLINE void block_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, int shift,
                      const int64_t *start, int64_t *out, size_t ld_out)
{
    __m512i acc[TILE_ROWS][2];
    clear_sums(rows, acc);
    if (rows == 1)
        row_s16(x, steps, pairs, acc);
    else
        tile_s16(x, ld, rows, steps, pairs, acc);
    int32_t sums[TILE_ROWS * SPPIM_PANEL]; /* a loop over registers as long as the next one would not be unrolled */
    store_tile(acc, rows, sums, SPPIM_PANEL, SPPIM_COLUMNS);
    const __m128i up = _mm_cvtsi32_si128(shift);
    for (size_t r = 0; r < (size_t)rows; r++) {
        const int64_t *from = start ? start : out + r * ld_out;
        for (size_t c = 0; c < SPPIM_PANEL; c += 16)
            store_wide(_mm512_loadu_si512(sums + r * SPPIM_PANEL + c), up, from + c, out + r * ld_out + c);
    }
}

FUNCTION static void LEVEL(product_s16)(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs,
                                        int shift, const int64_t *start, int64_t *out, size_t ld_out)
{
    for (size_t r = 0, count; r < rows; r += count) {
        count = sppim_next_tile(rows - r, TILE_ROWS);
        switch (count) {
#define TILE(n) case n: block_s16(x + r * ld, ld, n, steps, pairs, shift, start, out + r * ld_out, ld_out); break;
            EACH_TILE(TILE)
#undef TILE
        default: block_s16(x + r * ld, ld, 1, steps, pairs, shift, start, out + r * ld_out, ld_out);
        }
    }
}

/* ---- products that skip zeros ------------------------------------------------------------------------------------ */

/* Four rows of bytes to vectors of quads: vector q holds columns 16 i + 4 q + 0..3 in its 128-bit lane i. */
INLINE void interleave(__m512i r0, __m512i r1, __m512i r2, __m512i r3, __m512i *quads)
{
    const __m512i low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
    const __m512i low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
    quads[0] = _mm512_unpacklo_epi16(low01, low23);
    quads[1] = _mm512_unpackhi_epi16(low01, low23);
    quads[2] = _mm512_unpacklo_epi16(high01, high23);
    quads[3] = _mm512_unpackhi_epi16(high01, high23);
}

/* Sums of interleaved quads of a group to its two panels, by lane. */
INLINE void group_lanes(__m512i acc[4])
{
    const __m512i p0 = first_half(acc[0], acc[2]), p1 = first_half(acc[1], acc[3]);
    const __m512i p2 = second_half(acc[0], acc[2]), p3 = second_half(acc[1], acc[3]);
    acc[0] = p0, acc[1] = p1, acc[2] = p2, acc[3] = p3;
}

/* Two panels by lane to 64 columns. */
INLINE void group_columns(__m512i acc[4])
{
    for (int p = 0; p < 4; p += 2) {
        const __m512i low = first_half(acc[p], acc[p + 1]), high = second_half(acc[p], acc[p + 1]);
        acc[p] = low, acc[p + 1] = high;
    }
}

/* Four rows of a group, those of the non-zeros from i on, as quads. */
INLINE void gather_quads(sppim_nonzeros x, size_t i, const int8_t *rows, __m512i quads[4])
{
    __m512i r[4];
    for (size_t k = 0; k < 4; k++)
        r[k] = keep(_mm512_loadu_si512(rows + x.index[i + k] * SPPIM_GROUP));
    interleave(r[0], r[1], r[2], r[3], quads);
}

/* groups is a constant wherever this and the following are inlined. */
INLINE void add_quads(sppim_nonzeros x, size_t first, size_t last, const int8_t *rows, size_t stride, int groups,
                      __m512i acc[16])
{
    __m512i quads[4];
    for (size_t i = first; i < last; i += 4) {
        const __m512i operand = broadcast(x.value + i);
        for (int g = 0; g < groups; g++) {
            gather_quads(x, i, rows + (size_t)g * stride, quads);
            for (int q = 0; q < 4; q++)
                DOT8(acc[4 * g + q], operand, quads[q]);
        }
    }
}

INLINE void negate(__m512i *acc, int count)
{
    for (int i = 0; i < count; i++)
        acc[i] = _mm512_sub_epi32(_mm512_setzero_si512(), acc[i]);
}

INLINE void sparse_s8(sppim_nonzeros x, const int8_t *rows, size_t stride, int groups, sppim_start start, int32_t *out,
                      int order)
{
    __m512i acc[16];
    for (int i = 0; i < 4 * groups; i++)
        acc[i] = _mm512_setzero_si512();
    if (x.negatives) {
        add_quads(x, 0, x.negatives, rows, stride, groups, acc);
        negate(acc, 4 * groups);
    }
    add_quads(x, x.negatives, x.count, rows, stride, groups, acc);
    const __m512i scale = _mm512_set1_epi32(start.scale ? *start.scale : 1);
    for (int g = 0; g < groups; g++) {
        group_lanes(acc + 4 * g);
        for (int q = 0; start.column && q < 4; q++)
            acc[4 * g + q] = _mm512_add_epi32(
                acc[4 * g + q], _mm512_mullo_epi32(scale, _mm512_loadu_si512(start.column + 64 * g + 16 * q)));
        if (order == SPPIM_COLUMNS)
            group_columns(acc + 4 * g);
        for (int q = 0; q < 4; q++)
            _mm512_storeu_si512(out + 64 * g + 16 * q, acc[4 * g + q]);
    }
}

FUNCTION static void LEVEL(product_sparse_s8)(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                              sppim_start start, int32_t *out, int order)
{
    for (size_t g = 0, count; g < groups; g += count, rows += count * group_stride, out += count * SPPIM_GROUP) {
        count = groups - g < SPARSE_GROUPS ? 1 : SPARSE_GROUPS;
        if (count == SPARSE_GROUPS)
            sparse_s8(x, rows, group_stride, SPARSE_GROUPS, start, out, order);
        else
            sparse_s8(x, rows, group_stride, 1, start, out, order);
        start.column = start.column ? start.column + count * SPPIM_GROUP : NULL;
    }
}

/* low + 256 high of 16 columns. */
INLINE void store_joined(__m512i low, __m512i high, int64_t *out)
{
    const __m128i byte = _mm_cvtsi32_si128(8);
    _mm512_storeu_si512(out, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(low)));
    _mm512_storeu_si512(out + 8, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(low, 1)));
    store_wide(high, byte, out, out);
}

INLINE void add_two_planes(sppim_nonzeros x, size_t first, size_t last, const int8_t *rows, size_t stride, int groups,
                           __m512i low[8], __m512i high[8])
{
    __m512i quads[4];
    for (size_t i = first; i < last; i += 4) {
        const __m512i lower = broadcast(x.value + i), higher = broadcast(x.high + i);
        for (int g = 0; g < groups; g++) {
            gather_quads(x, i, rows + (size_t)g * stride, quads);
            for (int q = 0; q < 4; q++) {
                DOT8(low[4 * g + q], lower, quads[q]);
                DOT8(high[4 * g + q], higher, quads[q]);
            }
        }
    }
}

INLINE void sparse_s16s8(sppim_nonzeros x, const int8_t *rows, size_t stride, int groups, int64_t *out)
{
    __m512i low[8], high[8];
    for (int i = 0; i < 4 * groups; i++)
        low[i] = high[i] = _mm512_setzero_si512();
    if (x.negatives) {
        add_two_planes(x, 0, x.negatives, rows, stride, groups, low, high);
        negate(low, 4 * groups);
        negate(high, 4 * groups);
    }
    add_two_planes(x, x.negatives, x.count, rows, stride, groups, low, high);
    for (int g = 0; g < groups; g++) {
        group_lanes(low + 4 * g);
        group_lanes(high + 4 * g);
        group_columns(low + 4 * g);
        group_columns(high + 4 * g);
        for (int q = 0; q < 4; q++)
            store_joined(low[4 * g + q], high[4 * g + q], out + 64 * g + 16 * q);
    }
}

FUNCTION static void LEVEL(product_sparse_s16s8)(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                                 int64_t *out)
{
    size_t g = 0;
    for (; g + SPARSE_GROUPS / 2 <= groups; g += SPARSE_GROUPS / 2)
        sparse_s16s8(x, rows + g * group_stride, group_stride, SPARSE_GROUPS / 2, out + g * SPPIM_GROUP);
    for (; g < groups; g++)
        sparse_s16s8(x, rows + g * group_stride, group_stride, 1, out + g * SPPIM_GROUP);
}

/* Two rows of a group as pairs, which come by panel and lane. */
INLINE void gather_pairs(sppim_nonzeros x, size_t i, const int16_t *words, __m512i pairs[4])
{
    const int16_t *first = words + x.index[i] * SPPIM_GROUP, *second = words + x.index[i + 1] * SPPIM_GROUP;
    for (int p = 0; p < 2; p++) {
        const __m512i a = keep(_mm512_loadu_si512(first + 32 * p)), b = keep(_mm512_loadu_si512(second + 32 * p));
        pairs[2 * p] = _mm512_unpacklo_epi16(a, b);
        pairs[2 * p + 1] = _mm512_unpackhi_epi16(a, b);
    }
}

INLINE void sparse_s16(sppim_nonzeros x, const int16_t *words, size_t stride, int groups, const int64_t *start,
                       int64_t *out)
{
    __m512i acc[16], pairs[4];
    for (int i = 0; i < 4 * groups; i++)
        acc[i] = _mm512_setzero_si512();
    for (size_t i = 0; i < x.count; i += 2) {
        const __m512i operand = broadcast(x.value16 + i);
        for (int g = 0; g < groups; g++) {
            gather_pairs(x, i, words + (size_t)g * stride, pairs);
            for (int q = 0; q < 4; q++)
                DOT16(acc[4 * g + q], pairs[q], operand);
        }
    }
    for (int g = 0; g < groups; g++) {
        group_columns(acc + 4 * g);
        for (int q = 0; q < 4; q++)
            store_wide(acc[4 * g + q], _mm_setzero_si128(), start + 64 * g + 16 * q, out + 64 * g + 16 * q);
    }
}

FUNCTION static void LEVEL(product_sparse_s16)(sppim_nonzeros x, const int16_t *words, size_t group_stride, size_t groups,
                                               const int64_t *start, int64_t *out)
{
    const int64_t *from = start ? start : out;
    size_t g = 0;
    for (; g + 4 <= groups; g += 4)
        sparse_s16(x, words + g * group_stride, group_stride, 4, from + g * SPPIM_GROUP, out + g * SPPIM_GROUP);
    for (; g < groups; g++)
        sparse_s16(x, words + g * group_stride, group_stride, 1, from + g * SPPIM_GROUP, out + g * SPPIM_GROUP);
}

/* ---- finite accumulators ----------------------------------------------------------------------------------------- */

static sppim_kernels LEVEL(below); /* for what the vector code leaves over */

/* A word of an operand where its row is in the pairs; the other row meets 0. */
INLINE __m512i beside_zero(uint16_t index, int16_t value)
{
    return _mm512_set1_epi32((int)((uint32_t)(uint16_t)value << index % 2 * 16));
}

/* bits <= 31: neither a sum nor a product of words leaves s32. */
INLINE __m512i fit(__m512i x, int wrap, __m512i low, __m512i high, __m128i spare)
{
    return wrap ? _mm512_sra_epi32(_mm512_sll_epi32(x, spare), spare)
                : _mm512_min_epi32(_mm512_max_epi32(x, low), high);
}

FUNCTION static uint64_t LEVEL(product_finite_s16)(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator,
                                                   int32_t *acc)
{
    if (accumulator.bits == 32)
        return LEVEL(below).product_finite_s16(x, pairs, accumulator, acc);
    const int limit = 1 << (accumulator.bits - 1), wrap = accumulator.overflow == SPPIM_WRAP;
    const __m512i low = _mm512_set1_epi32(-limit), high = _mm512_set1_epi32(limit - 1);
    const __m128i spare = _mm_cvtsi32_si128(32 - accumulator.bits);
    __m512i sum[2] = {_mm512_loadu_si512(acc), _mm512_loadu_si512(acc + 16)};
    uint64_t changed = 0;
    for (size_t i = 0; i < x.count; i++) {
        const __m512i operand = beside_zero(x.index[i], x.value16[i]);
        const int16_t *p = pairs + x.index[i] / 2 * 2 * SPPIM_PANEL;
        for (int v = 0; v < 2; v++) {
            __m512i exact = sum[v];
            DOT16(exact, _mm512_loadu_si512(p + 32 * v), operand);
            sum[v] = fit(exact, wrap, low, high, spare);
            changed += (uint64_t)__builtin_popcount(_mm512_cmpneq_epi32_mask(sum[v], exact));
        }
    }
    _mm512_storeu_si512(acc, sum[0]);
    _mm512_storeu_si512(acc + 16, sum[1]);
    return changed;
}

/* ---- activations and errors -------------------------------------------------------------------------------------- */

/* A1.1, rnu, without a sum that could overflow. */
INLINE __m512i round_shift(__m512i x, int shift)
{
    if (shift == 0)
        return x;
    const __m512i half = _mm512_sra_epi32(x, _mm_cvtsi32_si128(shift - 1));
    return _mm512_add_epi32(_mm512_srai_epi32(half, 1), _mm512_and_si512(half, _mm512_set1_epi32(1)));
}

FUNCTION static size_t LEVEL(requantize_relu_s32)(const int32_t *acc, int shift, int hi, int8_t *y)
{
    const __m512i top = _mm512_set1_epi32(hi);
    __m512i v[2];
    size_t saturated = 0;
    for (int i = 0; i < 2; i++) {
        v[i] = round_shift(_mm512_loadu_si512(acc + 16 * i), shift);
        saturated += (size_t)__builtin_popcount(_mm512_cmpgt_epi32_mask(v[i], top));
        v[i] = _mm512_max_epi32(_mm512_min_epi32(v[i], top), _mm512_setzero_si512());
    }
    _mm256_storeu_si256((__m256i *)y, _mm512_cvtepi16_epi8(_mm512_packs_epi32(v[0], v[1])));
    return saturated;
}

FUNCTION static size_t LEVEL(requantize_relu_s64)(const int64_t *acc, int shift, int round, int hi, int8_t *y)
{
    if (round != SPPIM_RNU || shift == 0)
        return LEVEL(below).requantize_relu_s64(acc, shift, round, hi, y);
    const __m512i top = _mm512_set1_epi64(hi), one = _mm512_set1_epi64(1);
    size_t saturated = 0;
    for (int i = 0; i < 4; i++) {
        const __m512i half = _mm512_sra_epi64(_mm512_loadu_si512(acc + 8 * i), _mm_cvtsi32_si128(shift - 1));
        const __m512i x = _mm512_add_epi64(_mm512_srai_epi64(half, 1), _mm512_and_si512(half, one));
        saturated += (size_t)__builtin_popcount(_mm512_cmpgt_epi64_mask(x, top));
        const __m512i clamped = _mm512_max_epi64(_mm512_min_epi64(x, top), _mm512_setzero_si512());
        _mm_storel_epi64((__m128i *)(y + 8 * i), _mm512_cvtepi64_epi8(clamped));
    }
    return saturated;
}

FUNCTION static size_t LEVEL(gate_s32)(const int32_t *acc, const int8_t *y, int shift, int8_t *d)
{
    const __m512i limit = _mm512_set1_epi16(SPPIM_ERROR_MAX), lowest = _mm512_set1_epi16(-SPPIM_ERROR_MAX);
    const __m512i rounded = _mm512_packs_epi32(round_shift(_mm512_loadu_si512(acc), shift),
                                               round_shift(_mm512_loadu_si512(acc + 16), shift));
    const __m512i clamped = _mm512_max_epi16(_mm512_min_epi16(rounded, limit), lowest);
    const __m512i wide_y = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)y));
    const __mmask32 open = _mm512_cmpgt_epi16_mask(wide_y, _mm512_setzero_si512());
    _mm256_storeu_si256((__m256i *)d, _mm512_cvtepi16_epi8(_mm512_maskz_mov_epi16(open, clamped)));
    return (size_t)__builtin_popcount(open & _mm512_cmpneq_epi16_mask(clamped, rounded));
}

/* ---- facts about inputs, and their other orders ------------------------------------------------------------------ */

/* The first bytes of a vector, so many as are left. */
INLINE __m512i load_rest(const void *x, size_t bytes)
{
    return _mm512_maskz_loadu_epi8(((__mmask64)1 << bytes) - 1, x);
}

FUNCTION static size_t LEVEL(census_s8)(const int8_t *x, size_t count, uint8_t *bits)
{
    const size_t whole = count / 64 * 64;
    __m512i any = load_rest(x + whole, count - whole);
    size_t found = (size_t)__builtin_popcountll(_mm512_test_epi8_mask(any, any));
    for (size_t i = 0; i < whole; i += 64) {
        const __m512i v = _mm512_loadu_si512(x + i);
        found += (size_t)__builtin_popcountll(_mm512_test_epi8_mask(v, v));
        any = _mm512_or_si512(any, v);
    }
    const uint32_t all = (uint32_t)_mm512_reduce_or_epi32(any);
    *bits |= (uint8_t)(all | all >> 8 | all >> 16 | all >> 24);
    return found;
}

/* The lowest and highest of 32 words and of what *low and *high were. */
INLINE void reduce_extremes(__m512i least, __m512i most, int16_t *low, int16_t *high)
{
    int16_t lows[32], highs[32];
    _mm512_storeu_si512(lows, least);
    _mm512_storeu_si512(highs, most);
    for (int i = 0; i < 32; i++) {
        *low = lows[i] < *low ? lows[i] : *low;
        *high = highs[i] > *high ? highs[i] : *high;
    }
}

FUNCTION static size_t LEVEL(census_s16)(const int16_t *x, size_t count, int16_t *low, int16_t *high)
{
    const size_t whole = count / 32 * 32;
    const __m512i rest = load_rest(x + whole, 2 * (count - whole));
    const __mmask32 present = ((__mmask32)1 << (count - whole)) - 1;
    __m512i least = _mm512_mask_mov_epi16(_mm512_set1_epi16(*low), present, rest);
    __m512i most = _mm512_mask_mov_epi16(_mm512_set1_epi16(*high), present, rest);
    size_t found = (size_t)__builtin_popcount(_mm512_test_epi16_mask(rest, rest));
    for (size_t i = 0; i < whole; i += 32) {
        const __m512i v = _mm512_loadu_si512(x + i);
        found += (size_t)__builtin_popcount(_mm512_test_epi16_mask(v, v));
        least = _mm512_min_epi16(least, v);
        most = _mm512_max_epi16(most, v);
    }
    reduce_extremes(least, most, low, high);
    return found;
}

INLINE void add_to(int32_t *sums, __m512i x)
{
    _mm512_storeu_si512(sums, _mm512_add_epi32(_mm512_loadu_si512(sums), x));
}

INLINE void add_widened(__m512i words, int32_t *to)
{
    add_to(to, _mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)));
    add_to(to + 16, _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)));
}

FUNCTION static void LEVEL(tally_s8)(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum,
                                     uint32_t *nonzeros)
{
    for (size_t c = 0; c < columns; c += 64) {
        __m512i low = _mm512_setzero_si512(), high = low, count = low;
        for (size_t r = 0; r < rows; r++) { /* 255 bytes fit in a word, 255 ones in a byte */
            const __m512i v = _mm512_loadu_si512(x + r * ld + c);
            low = _mm512_add_epi16(low, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(v)));
            high = _mm512_add_epi16(high, _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(v, 1)));
            count = _mm512_mask_add_epi8(count, _mm512_test_epi8_mask(v, v), count, _mm512_set1_epi8(1));
        }
        add_widened(low, sum + c);
        add_widened(high, sum + c + 32);
        add_widened(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(count)), (int32_t *)nonzeros + c);
        add_widened(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(count, 1)), (int32_t *)nonzeros + c + 32);
    }
}

INLINE __m512i row_or_zeros(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld)
{
    return i < rows ? _mm512_loadu_si512(x + row[i] * ld) : _mm512_setzero_si512();
}

/* Sixteen rows of 64 columns: four rounds of interleaving turn each 128-bit lane around. */
INLINE void transpose_16(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld, int8_t *out, size_t ld_out)
{
    __m512i a[16], b[16];
    for (size_t r = 0; r < 16; r++)
        a[r] = row_or_zeros(x, row, i + r, rows, ld);
    for (int r = 0; r < 8; r++) {
        b[2 * r] = _mm512_unpacklo_epi8(a[r], a[r + 8]);
        b[2 * r + 1] = _mm512_unpackhi_epi8(a[r], a[r + 8]);
    }
    for (int r = 0; r < 8; r++) {
        a[2 * r] = _mm512_unpacklo_epi8(b[r], b[r + 8]);
        a[2 * r + 1] = _mm512_unpackhi_epi8(b[r], b[r + 8]);
    }
    for (int r = 0; r < 8; r++) {
        b[2 * r] = _mm512_unpacklo_epi8(a[r], a[r + 8]);
        b[2 * r + 1] = _mm512_unpackhi_epi8(a[r], a[r + 8]);
    }
    for (int r = 0; r < 8; r++) {
        a[2 * r] = _mm512_unpacklo_epi8(b[r], b[r + 8]);
        a[2 * r + 1] = _mm512_unpackhi_epi8(b[r], b[r + 8]);
    }
    for (size_t c = 0; c < 16; c++) {
        _mm_storeu_si128((__m128i *)(out + c * ld_out), _mm512_castsi512_si128(a[c]));
        _mm_storeu_si128((__m128i *)(out + (c + 16) * ld_out), _mm512_extracti32x4_epi32(a[c], 1));
        _mm_storeu_si128((__m128i *)(out + (c + 32) * ld_out), _mm512_extracti32x4_epi32(a[c], 2));
        _mm_storeu_si128((__m128i *)(out + (c + 48) * ld_out), _mm512_extracti32x4_epi32(a[c], 3));
    }
}

FUNCTION static void LEVEL(transpose_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns,
                                         int8_t *out, size_t ld_out)
{
    for (size_t c = 0; c < columns; c += 64)
        for (size_t i = 0; i < rows; i += 16)
            transpose_16(x + c, row, i, rows, ld, out + c * ld_out + i, ld_out);
}

FUNCTION static void LEVEL(pack_s8)(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, int8_t *quads,
                                    size_t quad_stride, int8_t *out_rows)
{
    for (size_t i = 0; i < rows; i += 4) {
        __m512i r[4], q[4];
        for (size_t k = 0; k < 4; k++) {
            r[k] = row_or_zeros(x, row, i + k, rows, ld);
            if (out_rows)
                _mm512_storeu_si512(out_rows + (i + k) * SPPIM_GROUP, r[k]);
        }
        if (!quads)
            continue;
        interleave(r[0], r[1], r[2], r[3], q);
        for (int v = 0; v < 2; v++) {
            int8_t *to = quads + i * SPPIM_PANEL + 64 * v;
            _mm512_storeu_si512(to, first_half(q[v], q[v + 2]));
            _mm512_storeu_si512(to + quad_stride, second_half(q[v], q[v + 2]));
        }
    }
}

/* ---- update ------------------------------------------------------------------------------------------------------ */

/* What an update needs in registers. */
typedef struct LEVEL(constants) {
    __m512i k0, k1, steps, row_step, first_factor, second_factor; /* random numbers */
    __m512i words_down, ones, highest;                    /* weights */
    __m512i half, lowest_product;                         /* product weights */
    __m512i half_byte, whole_byte, high_bytes[2];         /* product weights of 8 bits */
    __m128i up, down, drop;
    __mmask64 low_words, high_half;
    uint32_t columns;
} LEVEL(constants);

/* What the code of an update may take for granted: both bytes wanted and nothing else, or no product weights but the
 * weights themselves; these also need even indices. */
enum { QUADS_OF_8_BITS, ROWS_OF_8_BITS, WEIGHTS_ALONE, ANY_FORM };

/* Places of the bytes of four or two rows within 128-bit lanes: those of the first vector, where the mask of the
 * second is 0. */
INLINE void byte_places(LEVEL(constants) *c, int form)
{
    const __m128i quads = _mm_setr_epi8(1, 3, 1, 3, 5, 7, 5, 7, 9, 11, 9, 11, 13, 15, 13, 15);
    const __m128i rows = _mm_setr_epi8(1, 5, 9, 13, 1, 5, 9, 13, 3, 7, 11, 15, 3, 7, 11, 15);
    c->high_bytes[0] = keep(_mm512_broadcast_i32x4(form == QUADS_OF_8_BITS ? quads : rows));
    c->high_bytes[1] = keep(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7));
    c->high_half = form == QUADS_OF_8_BITS ? 0xCCCCCCCCCCCCCCCC : 0xF0F0F0F0F0F0F0F0;
    __asm__("" : "+k"(c->high_half));
}

INLINE LEVEL(constants) update_constants(const sppim_update *u, int form)
{
    const int drop = 16 - u->product_bits;
    LEVEL(constants) c = {
        .k0 = keep(_mm512_set1_epi32((int)u->k0)),
        .k1 = keep(_mm512_set1_epi32((int)u->k1)),
        .steps = keep(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
        .row_step = keep(_mm512_set1_epi32((int)(u->columns / 2))),
        .first_factor = keep(_mm512_set1_epi32((int)0x85EBCA6Bu)),
        .second_factor = keep(_mm512_set1_epi32((int)0xC2B2AE35u)),
        .words_down = keep(_mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15))),
        .ones = keep(_mm512_set1_epi32(-1)),
        .highest = keep(_mm512_set1_epi16(SPPIM_WEIGHT_MAX)),
        .up = _mm_cvtsi32_si128(16 - u->shift),
        .down = _mm_cvtsi32_si128(u->shift),
        .drop = _mm_cvtsi32_si128(drop),
        .low_words = 0x3333333333333333,
        .columns = (uint32_t)u->columns,
    };
    __asm__("" : "+k"(c.low_words));
    if (form == ANY_FORM) {
        c.half = keep(_mm512_set1_epi16((short)((1 << drop) >> 1)));
        c.lowest_product = keep(_mm512_set1_epi16((short)-((1 << (u->product_bits - 1)) - 1)));
    } else if (form != WEIGHTS_ALONE) {
        c.half_byte = keep(_mm512_set1_epi16(128));
        c.whole_byte = keep(_mm512_set1_epi16((short)0xFF00));
        byte_places(&c, form);
    }
    return c;
}

/* A3.1, A3.4 */
INLINE __m512i draw32(const LEVEL(constants) *c, __m512i i)
{
    __m512i x = _mm512_add_epi32(_mm512_xor_si512(i, c->k1), c->k0);
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
    x = _mm512_mullo_epi32(x, c->first_factor);
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 13));
    x = _mm512_mullo_epi32(x, c->second_factor);
    return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

INLINE __m512i indices(const LEVEL(constants) *c, uint32_t first)
{
    return _mm512_add_epi32(_mm512_set1_epi32((int)first), c->steps);
}

/* A3.4: 32 consecutive numbers of 16 bits. */
INLINE __m512i draw16(const LEVEL(constants) *c, uint32_t first)
{
    const __m512i even = draw32(c, indices(c, first / 2));
    if (first % 2 == 0)
        return even;
    const __m512i odd = draw32(c, indices(c, first / 2 + 1));
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_slli_epi32(odd, 16));
}

/* A1.2 for a vector of pairs: gradient a of their first, b of their second row; |gradient| >> shift below 2^15 - 1.
 * Random numbers ua, ub in the lower words: what they carry into the upper words, which hold the whole parts, is the
 * rounding. */
INLINE __m512i rounded_sums(__m512i a, __m512i b, __m512i ua, __m512i ub, const LEVEL(constants) *c)
{
    const __m512i ta = _mm512_add_epi32(_mm512_sll_epi32(a, c->up), ua);
    const __m512i tb = _mm512_add_epi32(_mm512_sll_epi32(b, c->up), ub);
    return _mm512_mask_shuffle_epi8(tb, c->low_words, ta, c->words_down);
}

/* The same for gradients of words: products of two rows with errors. narrow: a random number still fits above them. */
INLINE __m512i rounded_products(__m512i rows, __m512i errors, __m512i u, const LEVEL(constants) *c, int narrow)
{
    const __m512i gradient = _mm512_mullo_epi16(rows, errors);
    if (narrow)
        return _mm512_sra_epi16(_mm512_add_epi16(gradient, _mm512_srl_epi16(u, c->up)), c->down);
    const __m512i whole = _mm512_sra_epi16(gradient, c->down), fraction = _mm512_sll_epi16(gradient, c->up);
    const __mmask32 carry = _mm512_cmpgt_epu16_mask(u, _mm512_xor_si512(fraction, c->ones));
    return _mm512_mask_sub_epi16(whole, carry, whole, c->ones);
}

/* A5.2; the sum saturates where the clamp would act anyway. */
INLINE __m512i product_weights(__m512i w, const LEVEL(constants) *c)
{
    return _mm512_max_epi16(_mm512_sra_epi16(_mm512_adds_epi16(w, c->half), c->drop), c->lowest_product);
}

/* Product weights of four rows as bytes: pairs v01 of rows 0, 1 and v23 of rows 2, 3. */
INLINE void store_quads(const __m512i v01[2], const __m512i v23[2], int8_t *to)
{
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (int v = 0; v < 2; v++)
        _mm512_storeu_si512(to + 64 * v, _mm512_shuffle_epi8(_mm512_packs_epi16(v01[v], v23[v]), order));
}

INLINE void store_halves(__m512i rows, int8_t *to)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(rows));
    _mm256_storeu_si256((__m256i *)(to + SPPIM_GROUP), _mm512_extracti64x4_epi64(rows, 1));
}

INLINE void store_two_rows(const __m512i v[2], int8_t *to)
{
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m512i mixed = _mm512_shuffle_epi8(_mm512_packs_epi16(v[0], v[1]), order);
    store_halves(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), mixed), to);
}

INLINE void store_words(const __m512i v[2], int16_t *to)
{
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m512i left = _mm512_shuffle_epi8(v[0], order), right = _mm512_shuffle_epi8(v[1], order);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(left, right));
    _mm512_storeu_si512(to + SPPIM_GROUP, _mm512_unpackhi_epi64(left, right));
}

/* Zeros of two rows, as two bytes: bits of even places belong to the first. */
INLINE uint32_t count_both(__mmask32 first, __mmask32 second)
{
    const uint64_t both = first | (uint64_t)second << 32;
    return (uint32_t)__builtin_popcountll(both & 0x5555555555555555u) |
           (uint32_t)__builtin_popcountll(both & 0xAAAAAAAAAAAAAAAAu) << 8;
}

INLINE uint32_t count_zeros(const __m512i v[2], __m512i where)
{
    return count_both(_mm512_testn_epi16_mask(v[0], where), _mm512_testn_epi16_mask(v[1], where));
}

/* The slow end of clip. */
INLINE size_t clip_all(__m512i w[], int count, const LEVEL(constants) *c)
{
    size_t clipped = 0;
    for (int i = 0; i < count; i++) {
        const __m512i exact = w[i];
        w[i] = _mm512_max_epi16(_mm512_min_epi16(exact, c->highest), _mm512_sub_epi16(_mm512_setzero_si512(), c->highest));
        clipped += (size_t)__builtin_popcount(_mm512_cmpneq_epi16_mask(exact, w[i]));
    }
    return clipped;
}

/* A7.3: clamps the weights of two or four rows, which rarely does anything; returns how many it changed. */
INLINE size_t clip(__m512i w[], int count, const LEVEL(constants) *c)
{
    __m512i most = _mm512_max_epu16(_mm512_abs_epi16(w[0]), _mm512_abs_epi16(w[1]));
    if (count == 4)
        most = _mm512_max_epu16(most, _mm512_max_epu16(_mm512_abs_epi16(w[2]), _mm512_abs_epi16(w[3])));
    if (__builtin_expect(_mm512_cmpgt_epu16_mask(most, c->highest) == 0, 1))
        return 0;
    return clip_all(w, count, c);
}

INLINE void store_pair(const __m512i w[2], int16_t *to)
{
    _mm512_storeu_si512(to, w[0]);
    _mm512_storeu_si512(to + 32, w[1]);
}

/* Product weights of 8 bits are the high bytes of w + 128: no clamp acts on them. */
INLINE void byte_weights(const __m512i w[2], const LEVEL(constants) *c, __m512i v[2])
{
    v[0] = _mm512_add_epi16(w[0], c->half_byte);
    v[1] = _mm512_add_epi16(w[1], c->half_byte);
}

INLINE __m512i high_bytes(__m512i a, __m512i b, const LEVEL(constants) *c)
{
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(a, c->high_bytes[0]), c->high_half, b, c->high_bytes[0]);
}

/* What follows from the new weights of two rows, all but quads; v: their product weights, of 8 bits with the
 * fraction below. Returns their zeros as two bytes. */
INLINE uint32_t finish_pair(const __m512i w[2], const sppim_update_rows *panel, size_t row, const LEVEL(constants) *c,
                            int form, __m512i v[2])
{
    if (form == QUADS_OF_8_BITS || form == ROWS_OF_8_BITS) {
        byte_weights(w, c, v);
        if (form == ROWS_OF_8_BITS)
            store_halves(_mm512_permutexvar_epi64(c->high_bytes[1], high_bytes(v[0], v[1], c)),
                         panel->rows + row * SPPIM_GROUP);
        return count_zeros(v, c->whole_byte);
    }
    for (int i = 0; i < 2; i++)
        v[i] = form == WEIGHTS_ALONE ? w[i] : product_weights(w[i], c);
    if (panel->words)
        store_words(v, panel->words + row * SPPIM_GROUP);
    if (form == ANY_FORM && panel->rows)
        store_two_rows(v, panel->rows + row * SPPIM_GROUP);
    if (form == ANY_FORM && panel->pairs)
        store_pair(v, panel->pairs + row * SPPIM_PANEL);
    return count_zeros(v, c->ones);
}

/* The same for four rows, quads and zeros included. */
INLINE void finish_four(const __m512i w[4], const sppim_update_rows *panel, size_t row, const LEVEL(constants) *c, int form)
{
    __m512i v01[2], v23[2];
    uint32_t zeros = finish_pair(w, panel, row, c, form, v01);
    zeros |= finish_pair(w + 2, panel, row + 2, c, form, v23) << 16;
    __builtin_memcpy(panel->zeros + row, &zeros, sizeof zeros);
    if (form == QUADS_OF_8_BITS) {
        _mm512_storeu_si512(panel->quads + row * SPPIM_PANEL, high_bytes(v01[0], v23[0], c));
        _mm512_storeu_si512(panel->quads + row * SPPIM_PANEL + 64, high_bytes(v01[1], v23[1], c));
    } else if (form == ANY_FORM && panel->quads) {
        store_quads(v01, v23, panel->quads + row * SPPIM_PANEL);
    }
}

/* Random numbers of two rows, two neighbouring columns in a lane; where the form is known, index and columns are
 * even. */
INLINE void draw_rows(const LEVEL(constants) *c, uint32_t index, int form, __m512i *u0, __m512i *u1)
{
    if (form == ANY_FORM) {
        *u0 = draw16(c, index);
        *u1 = draw16(c, index + c->columns);
        return;
    }
    const __m512i i = indices(c, index / 2);
    *u0 = draw32(c, i);
    *u1 = draw32(c, _mm512_add_epi32(i, c->row_step));
}

/* Two rows less their gradients, not clipped yet. */
INLINE void subtract_sums(const int32_t *gradient, size_t ld, uint32_t index, const int16_t *w, const LEVEL(constants) *c,
                          int form, __m512i next[2])
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i u0, u1, q[2];
    draw_rows(c, index, form, &u0, &u1);
    q[0] = rounded_sums(_mm512_loadu_si512(gradient), _mm512_loadu_si512(gradient + ld), _mm512_unpacklo_epi16(u0, zero),
                        _mm512_unpacklo_epi16(u1, zero), c);
    q[1] = rounded_sums(_mm512_loadu_si512(gradient + 16), _mm512_loadu_si512(gradient + ld + 16),
                        _mm512_unpackhi_epi16(u0, zero), _mm512_unpackhi_epi16(u1, zero), c);
    for (int v = 0; v < 2; v++)
        next[v] = _mm512_subs_epi16(_mm512_loadu_si512(w + 32 * v), q[v]);
}

/* Rows whose gradients are all narrow. */
INLINE size_t update_narrow(const sppim_update *update, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                            const sppim_update_rows *panel, int form)
{
    const LEVEL(constants) c = update_constants(update, form);
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r += 4, gradient += 4 * ld, index += 4 * c.columns) {
        __m512i next[4];
        subtract_sums(gradient, ld, index, panel->w + r * SPPIM_PANEL, &c, form, next);
        subtract_sums(gradient + 2 * ld, ld, index + 2 * c.columns, panel->w + (r + 2) * SPPIM_PANEL, &c, form, next + 2);
        clipped += clip(next, 4, &c);
        store_pair(next, panel->w_next + r * SPPIM_PANEL);
        store_pair(next + 2, panel->w_next + (r + 2) * SPPIM_PANEL);
        finish_four(next, panel, r, &c, form);
    }
    return clipped;
}

static int LEVEL(choose_form)(const sppim_update *update, uint32_t index, const sppim_update_rows *panel)
{
    const bool quads = panel->quads, rows = panel->rows;
    if (index % 2 || update->columns % 2 || panel->pairs || (quads && rows))
        return ANY_FORM;
    if (update->product_bits == 8 && (quads || rows) && !panel->words)
        return quads ? QUADS_OF_8_BITS : ROWS_OF_8_BITS;
    return update->product_bits == 16 && !quads && !rows ? WEIGHTS_ALONE : ANY_FORM;
}

/* Whether every |gradient| >> shift of four rows is below 2^15 - 1. */
FUNCTION static int LEVEL(four_are_narrow)(const int32_t *gradient, size_t ld, int shift)
{
    const __m512i bound = _mm512_set1_epi32((INT16_MAX - 1) << shift);
    __mmask16 beyond = 0;
    for (size_t i = 0; i < 8; i++) {
        const __m512i g = _mm512_loadu_si512(gradient + i / 2 * ld + 16 * (i % 2));
        beyond |= _mm512_cmpgt_epu32_mask(_mm512_abs_epi32(g), bound);
    }
    return beyond == 0;
}

/* How many rows from here on are, by fours. */
FUNCTION static size_t LEVEL(narrow_rows)(const int32_t *gradient, size_t ld, size_t rows, int shift)
{
    size_t r = 0;
    while (r < rows && LEVEL(four_are_narrow)(gradient + r * ld, ld, shift))
        r += 4;
    return r;
}

FUNCTION static size_t LEVEL(update_s16)(const sppim_update *update, const int32_t *gradient, size_t ld, size_t rows,
                                         uint32_t index, sppim_update_rows panel);

/* Apart from the loop over narrow rows, whose registers no call shall disturb. */
FUNCTION __attribute__((noinline)) static size_t LEVEL(update_wide)(const sppim_update *update, const int32_t *gradient,
                                                                    size_t ld, size_t rows, uint32_t index,
                                                                    sppim_update_rows panel)
{
    sppim_update narrow = *update;
    narrow.narrow = true;
    size_t clipped = 0;
    for (size_t r = 0, count; r < rows; r += count) {
        const sppim_update_rows rest = sppim_further_rows(panel, r);
        const uint32_t first = index + (uint32_t)(r * update->columns);
        count = LEVEL(narrow_rows)(gradient + r * ld, ld, rows - r, update->shift);
        if (count)
            clipped += LEVEL(update_s16)(&narrow, gradient + r * ld, ld, count, first, rest);
        else
            clipped += LEVEL(below).update_s16(update, gradient + r * ld, ld, count = 4, first, rest);
    }
    return clipped;
}

FUNCTION static size_t LEVEL(update_s16)(const sppim_update *update, const int32_t *gradient, size_t ld, size_t rows,
                                         uint32_t index, sppim_update_rows panel)
{
    if (update->round != SPPIM_SR || update->shift > 16)
        return LEVEL(below).update_s16(update, gradient, ld, rows, index, panel);
    if (!update->narrow)
        return LEVEL(update_wide)(update, gradient, ld, rows, index, panel);
    switch (LEVEL(choose_form)(update, index, &panel)) {
    case QUADS_OF_8_BITS: return update_narrow(update, gradient, ld, rows, index, &panel, QUADS_OF_8_BITS);
    case ROWS_OF_8_BITS: return update_narrow(update, gradient, ld, rows, index, &panel, ROWS_OF_8_BITS);
    case WEIGHTS_ALONE: return update_narrow(update, gradient, ld, rows, index, &panel, WEIGHTS_ALONE);
    default: return update_narrow(update, gradient, ld, rows, index, &panel, ANY_FORM);
    }
}

/* ---- update by a single image ------------------------------------------------------------------------------------ */

INLINE void subtract_products(const int16_t *row, const __m512i errors[2], uint32_t index, const int16_t *w,
                              const LEVEL(constants) *c, int narrow, int form, __m512i next[2])
{
    __m512i u0, u1;
    draw_rows(c, index, form, &u0, &u1);
    const __m512i u[2] = {_mm512_unpacklo_epi16(u0, u1), _mm512_unpackhi_epi16(u0, u1)};
    for (int v = 0; v < 2; v++)
        next[v] = _mm512_subs_epi16(_mm512_loadu_si512(w + 32 * v),
                                    rounded_products(broadcast(row), errors[v], u[v], c, narrow));
}

/* The words of 16 lanes, each twice. */
INLINE __m512i twice(const int16_t *words)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)words));
    return _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
}

/* Two rows at a time. */
INLINE size_t update_pairs(const sppim_update *update, const int16_t *row, const int16_t *error, const uint16_t *pair,
                           size_t pairs, uint32_t index, const sppim_update_rows *panel, int narrow, int form)
{
    const LEVEL(constants) c = update_constants(update, form);
    const __m512i errors[2] = {twice(error), twice(error + 16)};
    size_t clipped = 0;
    for (size_t i = 0; i < pairs; i++) {
        const size_t r = 2 * (size_t)pair[i];
        __m512i next[2], v[2];
        subtract_products(row + r, errors, index + (uint32_t)r * c.columns, panel->w + r * SPPIM_PANEL, &c, narrow, form,
                          next);
        clipped += clip(next, 2, &c);
        store_pair(next, panel->w_next + r * SPPIM_PANEL);
        const uint16_t zeros = (uint16_t)finish_pair(next, panel, r, &c, form, v);
        __builtin_memcpy(panel->zeros + r, &zeros, sizeof zeros);
    }
    return clipped;
}

/* Four rows at a time, which quads need. */
INLINE size_t update_twos(const sppim_update *update, const int16_t *row, const int16_t *error, const uint16_t *pair,
                          size_t pairs, uint32_t index, const sppim_update_rows *panel, int narrow, int form)
{
    const LEVEL(constants) c = update_constants(update, form);
    const __m512i errors[2] = {twice(error), twice(error + 16)};
    size_t clipped = 0;
    for (size_t i = 0; i < pairs; i += 2) {
        const size_t r = 2 * (size_t)pair[i];
        const uint32_t first = index + (uint32_t)r * c.columns;
        __m512i next[4];
        subtract_products(row + r, errors, first, panel->w + r * SPPIM_PANEL, &c, narrow, form, next);
        subtract_products(row + r + 2, errors, first + 2 * c.columns, panel->w + (r + 2) * SPPIM_PANEL, &c, narrow, form,
                          next + 2);
        clipped += clip(next, 4, &c);
        store_pair(next, panel->w_next + r * SPPIM_PANEL);
        store_pair(next + 2, panel->w_next + (r + 2) * SPPIM_PANEL);
        finish_four(next, panel, r, &c, form);
    }
    return clipped;
}

#define OUTER(how, narrow, form) how(update, row, error, pair, pairs, index, &panel, narrow, form)
#define EITHER(how, form) (update->narrow ? OUTER(how, 1, form) : OUTER(how, 0, form))

FUNCTION static size_t LEVEL(update_outer_s16)(const sppim_update *update, const int16_t *row, const int16_t *error,
                                               const uint16_t *pair, size_t pairs, uint32_t index, sppim_update_rows panel)
{
    if (update->round != SPPIM_SR || update->shift > 16)
        return LEVEL(below).update_outer_s16(update, row, error, pair, pairs, index, panel);
    switch (LEVEL(choose_form)(update, index, &panel)) {
    case QUADS_OF_8_BITS: return EITHER(update_twos, QUADS_OF_8_BITS);
    case ROWS_OF_8_BITS: return EITHER(update_pairs, ROWS_OF_8_BITS);
    case WEIGHTS_ALONE: return EITHER(update_pairs, WEIGHTS_ALONE);
    default: return panel.quads ? EITHER(update_twos, ANY_FORM) : EITHER(update_pairs, ANY_FORM);
    }
}

static void LEVEL(install)(sppim_kernels *table)
{
    LEVEL(below) = *table;
    table->census_s8 = LEVEL(census_s8);
    table->census_s16 = LEVEL(census_s16);
    table->tally_s8 = LEVEL(tally_s8);
    table->transpose_s8 = LEVEL(transpose_s8);
    table->pack_s8 = LEVEL(pack_s8);
    table->product_s8 = LEVEL(product_s8);
    table->product_s16 = LEVEL(product_s16);
    table->product_sparse_s8 = LEVEL(product_sparse_s8);
    table->product_sparse_s16s8 = LEVEL(product_sparse_s16s8);
    table->product_sparse_s16 = LEVEL(product_sparse_s16);
    table->product_finite_s16 = LEVEL(product_finite_s16);
    table->requantize_relu_s32 = LEVEL(requantize_relu_s32);
    table->requantize_relu_s64 = LEVEL(requantize_relu_s64);
    table->gate_s32 = LEVEL(gate_s32);
    table->update_s16 = LEVEL(update_s16);
    table->update_outer_s16 = LEVEL(update_outer_s16);
}
