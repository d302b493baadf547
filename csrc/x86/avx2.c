/* What AVX2 does better than plain C. Words are multiplied by vpmaddwd; bytes are widened to words first, in even and odd
 * places. A panel is four vectors of eight lanes: "quarters", the unit in which everything here is counted. Quarters h and
 * h + 2 hold the columns 16 h .. 16 h + 15: "half" h. */
#include "../fixed.h"
#include "../kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET   "avx2,popcnt"
#define FUNCTION __attribute__((target(TARGET)))
#define INLINE   __attribute__((target(TARGET), always_inline)) static inline

#define QUARTERS 4
#define ROWS_S16 6 /* of a tile with two quarters: 12 sums, 2 weights, an operand and a product are the 16 registers */
#define ROWS_S8  4 /* 8 sums, 4 halves of weights, 2 of operands and 2 products */
#define CHUNK    64 /* steps whose operands are widened at a time */

static sppim_kernels below; /* for what the vector code leaves over */

INLINE __m256i load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }

INLINE void store(void *to, __m256i x) { _mm256_storeu_si256((__m256i *)to, x); }

INLINE void add_to(int32_t *sums, __m256i x) { store(sums, _mm256_add_epi32(load(sums), x)); }

INLINE __m256i low_lanes(__m256i a, __m256i b) { return _mm256_permute2x128_si256(a, b, 0x20); }

INLINE __m256i high_lanes(__m256i a, __m256i b) { return _mm256_permute2x128_si256(a, b, 0x31); }

INLINE size_t count_bits(unsigned mask) { return (size_t)__builtin_popcount(mask); }

/* Number of lanes that are all ones, others being zero. */
INLINE size_t count_lanes(__m256i mask) { return count_bits((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(mask))); }

/* Two words, or four bytes, of an operand in every lane. */
INLINE __m256i broadcast(const void *x)
{
    int32_t both;
    __builtin_memcpy(&both, x, sizeof both);
    return _mm256_set1_epi32(both);
}

/* Half h of the sums of a row. */
INLINE void store_half(__m256i first, __m256i second, size_t h, int32_t *out, int order)
{
    if (order == SPPIM_LANES) {
        store(out + 8 * h, first);
        store(out + 8 * h + 16, second);
    } else {
        store(out + 16 * h, low_lanes(first, second));
        store(out + 16 * h + 8, high_lanes(first, second));
    }
}

/* ---- dense products of words ------------------------------------------------------------------------------------- */

/* rows and quarters (two: one half; or all four) are constants wherever this is inlined, so that acc lives in registers. */
INLINE void tile_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, int quarters,
                     __m256i acc[][QUARTERS])
{
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < quarters; q++)
            acc[r][q] = _mm256_setzero_si256();
    for (size_t s = 0; s < steps; s++) {
        __m256i w[QUARTERS];
        for (int q = 0; q < quarters; q++)
            w[q] = load(pairs + 64 * s + (quarters == 2 ? 32 : 16) * q);
        for (int r = 0; r < rows; r++) {
            const __m256i operand = broadcast(x + (size_t)r * ld + 2 * s);
            for (int q = 0; q < quarters; q++)
                acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(w[q], operand));
        }
    }
}

/* Many rows: half of the panel at a time. */
INLINE void halves_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, int32_t *out,
                       size_t ld_out, int order)
{
    for (size_t h = 0; h < 2; h++) {
        __m256i acc[ROWS_S16][QUARTERS];
        tile_s16(x, ld, rows, steps, pairs + 16 * h, 2, acc);
        for (int r = 0; r < rows; r++)
            store_half(acc[r][0], acc[r][1], h, out + (size_t)r * ld_out, order);
    }
}

/* Few rows: the weights are read once. */
INLINE void whole_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, int32_t *out,
                      size_t ld_out, int order)
{
    __m256i acc[ROWS_S16][QUARTERS];
    tile_s16(x, ld, rows, steps, pairs, 4, acc);
    for (int r = 0; r < rows; r++)
        for (size_t h = 0; h < 2; h++)
            store_half(acc[r][h], acc[r][h + 2], h, out + (size_t)r * ld_out, order);
}

/* Rows of the next tile: tiles as equal as possible. */
INLINE size_t next_tile(size_t rows, size_t most) { return sppim_ceil_div(rows, sppim_ceil_div(rows, most)); }

FUNCTION static void product_s16_avx2(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs,
                                      int32_t *out, size_t ld_out, int order)
{
    for (size_t r0 = 0, count; r0 < rows; r0 += count) {
        const int16_t *operands = x + r0 * ld;
        int32_t *to = out + r0 * ld_out;
        count = next_tile(rows - r0, ROWS_S16);
        switch (count) {
        case 1: whole_s16(operands, ld, 1, steps, pairs, to, ld_out, order); break;
        case 2: whole_s16(operands, ld, 2, steps, pairs, to, ld_out, order); break;
        case 3: halves_s16(operands, ld, 3, steps, pairs, to, ld_out, order); break;
        case 4: halves_s16(operands, ld, 4, steps, pairs, to, ld_out, order); break;
        case 5: halves_s16(operands, ld, 5, steps, pairs, to, ld_out, order); break;
        default: halves_s16(operands, ld, ROWS_S16, steps, pairs, to, ld_out, order);
        }
    }
}

/* ---- dense products of bytes ------------------------------------------------------------------------------------- */

/* Words in even and in odd places: of operands (signed), of stored bytes (unsigned). */
INLINE __m256i even_words(__m256i x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }

INLINE __m256i odd_words(__m256i x) { return _mm256_srai_epi16(x, 8); }

INLINE __m256i even_stored(__m256i w) { return _mm256_and_si256(w, _mm256_set1_epi16(255)); }

INLINE __m256i odd_stored(__m256i w) { return _mm256_srli_epi16(w, 8); }

INLINE __m256i dot(__m256i even, __m256i odd, __m256i even_operand, __m256i odd_operand)
{
    return _mm256_add_epi32(_mm256_madd_epi16(even, even_operand), _mm256_madd_epi16(odd, odd_operand));
}

typedef struct widened { /* operands of a tile */
    int32_t even[ROWS_S8][CHUNK], odd[ROWS_S8][CHUNK];
} widened;

INLINE void widen_row(const int8_t *x, size_t steps, int32_t *even, int32_t *odd)
{
    for (size_t s = 0; s < steps; s += 8) {
        __m256i bytes = _mm256_setzero_si256();
        if (steps - s >= 8)
            bytes = load(x + 4 * s);
        else
            __builtin_memcpy(&bytes, x + 4 * s, 4 * (steps - s));
        store(even + s, even_words(bytes));
        store(odd + s, odd_words(bytes));
    }
}

/* rows is a constant wherever this is inlined. */
INLINE void half_s8(const widened *x, int rows, size_t steps, const uint8_t *quads, size_t h, __m256i sums[][QUARTERS])
{
    __m256i acc[ROWS_S8][2];
    for (int r = 0; r < rows; r++)
        for (size_t v = 0; v < 2; v++)
            acc[r][v] = sums[r][h + 2 * v];
    for (size_t s = 0; s < steps; s++) {
        const __m256i w0 = load(quads + 128 * s + 32 * h), w1 = load(quads + 128 * s + 32 * h + 64);
        const __m256i even0 = odd_stored(_mm256_slli_epi16(w0, 8)), odd0 = odd_stored(w0); /* no register for a mask */
        const __m256i even1 = odd_stored(_mm256_slli_epi16(w1, 8)), odd1 = odd_stored(w1);
        for (int r = 0; r < rows; r++) {
            const __m256i even = _mm256_set1_epi32(x->even[r][s]), odd = _mm256_set1_epi32(x->odd[r][s]);
            acc[r][0] = _mm256_add_epi32(acc[r][0], dot(even0, odd0, even, odd));
            acc[r][1] = _mm256_add_epi32(acc[r][1], dot(even1, odd1, even, odd));
        }
    }
    for (int r = 0; r < rows; r++)
        for (size_t v = 0; v < 2; v++)
            sums[r][h + 2 * v] = acc[r][v];
}

INLINE __m256i start_of(sppim_start start, size_t r, size_t quarter)
{
    __m256i sum = start.column ? load(start.column + 8 * quarter) : _mm256_setzero_si256();
    if (start.scale)
        sum = _mm256_mullo_epi32(sum, _mm256_set1_epi32(start.scale[r]));
    return start.shift ? _mm256_add_epi32(sum, _mm256_set1_epi32(start.shift[r])) : sum;
}

INLINE void tile_s8(const int8_t *x, size_t ld, int rows, size_t steps, const uint8_t *quads, __m256i sums[][QUARTERS])
{
    widened operands;
    for (size_t s = 0, count; s < steps; s += count) {
        count = sppim_smaller(CHUNK, steps - s);
        for (int r = 0; r < rows; r++)
            widen_row(x + (size_t)r * ld + 4 * s, count, operands.even[r], operands.odd[r]);
        for (size_t h = 0; h < 2; h++)
            half_s8(&operands, rows, count, quads + 128 * s, h, sums);
    }
}

FUNCTION static void product_s8_avx2(const int8_t *x, size_t ld, size_t rows, size_t steps, const uint8_t *quads,
                                     sppim_start start, int32_t *out, size_t ld_out, int order)
{
    for (size_t r0 = 0, count; r0 < rows; r0 += count) {
        const int8_t *operands = x + r0 * ld;
        __m256i sums[ROWS_S8][QUARTERS];
        count = next_tile(rows - r0, ROWS_S8);
        for (size_t r = 0; r < count; r++)
            for (size_t q = 0; q < QUARTERS; q++)
                sums[r][q] = start_of(start, r0 + r, q);
        switch (count) {
        case 1: tile_s8(operands, ld, 1, steps, quads, sums); break;
        case 2: tile_s8(operands, ld, 2, steps, quads, sums); break;
        case 3: tile_s8(operands, ld, 3, steps, quads, sums); break;
        default: tile_s8(operands, ld, ROWS_S8, steps, quads, sums);
        }
        for (size_t r = 0; r < count; r++)
            for (size_t h = 0; h < 2; h++)
                store_half(sums[r][h], sums[r][h + 2], h, out + (r0 + r) * ld_out, order);
    }
}

/* ---- products that skip zeros ------------------------------------------------------------------------------------ */

/* Quads of 32 columns of four rows: vector q holds columns 16 i + 4 q + 0..3 in its 128-bit lane i. First q = 0, 1. */
INLINE void interleave_first(const __m256i r[4], __m256i quads[2])
{
    const __m256i r01 = _mm256_unpacklo_epi8(r[0], r[1]), r23 = _mm256_unpacklo_epi8(r[2], r[3]);
    quads[0] = _mm256_unpacklo_epi16(r01, r23);
    quads[1] = _mm256_unpackhi_epi16(r01, r23);
}

/* q = 2, 3 */
INLINE void interleave_second(const __m256i r[4], __m256i quads[2])
{
    const __m256i r01 = _mm256_unpackhi_epi8(r[0], r[1]), r23 = _mm256_unpackhi_epi8(r[2], r[3]);
    quads[0] = _mm256_unpacklo_epi16(r01, r23);
    quads[1] = _mm256_unpackhi_epi16(r01, r23);
}

/* Interleaved quads of a panel, or their sums, to quarters. */
INLINE void to_quarters(const __m256i quads[4], __m256i quarter[QUARTERS])
{
    for (int v = 0; v < 2; v++) {
        quarter[2 * v] = low_lanes(quads[v], quads[v + 2]);
        quarter[2 * v + 1] = high_lanes(quads[v], quads[v + 2]);
    }
}

INLINE void add_panel(const __m256i acc[4], int32_t *sums)
{
    __m256i quarter[QUARTERS];
    to_quarters(acc, quarter);
    for (int q = 0; q < QUARTERS; q++)
        add_to(sums + 8 * q, quarter[q]);
}

/* Adds to the sums of quads from .. to - 1 of the 32 columns at `rows`. high null: one plane. All but x and rows is constant
 * wherever this is inlined. */
INLINE void sparse_quads(sppim_nonzeros x, const uint8_t *rows, const int8_t *high, int from, int to, __m256i acc[2][4])
{
    __m256i sum[2][4];
    for (int q = from; q < to; q++)
        sum[0][q] = sum[1][q] = _mm256_setzero_si256();
    for (size_t i = 0; i < x.count; i += 4) {
        const __m256i operand = broadcast(x.value + i), operand_high = high ? broadcast(high + i) : operand;
        __m256i r[4], quads[4];
        for (size_t k = 0; k < 4; k++)
            r[k] = load(rows + x.index[i + k] * SPPIM_GROUP);
        if (from == 0)
            interleave_first(r, quads);
        if (to == 4)
            interleave_second(r, quads + 2);
        for (int q = from; q < to; q++) {
            const __m256i even = even_stored(quads[q]), odd = odd_stored(quads[q]);
            sum[0][q] = _mm256_add_epi32(sum[0][q], dot(even, odd, even_words(operand), odd_words(operand)));
            if (high)
                sum[1][q] =
                    _mm256_add_epi32(sum[1][q], dot(even, odd, even_words(operand_high), odd_words(operand_high)));
        }
    }
    for (int q = from; q < to; q++)
        for (int plane = 0; plane < 2; plane++)
            acc[plane][q] = sum[plane][q];
}

INLINE void sparse_one_plane(sppim_nonzeros x, const uint8_t *rows, int32_t *sums)
{
    __m256i acc[2][4];
    sparse_quads(x, rows, NULL, 0, 4, acc);
    add_panel(acc[0], sums);
}

/* Registers do for two quads at a time. */
INLINE void sparse_two_planes(sppim_nonzeros x, const uint8_t *rows, int32_t *sums, int32_t *sums_high)
{
    __m256i acc[2][4];
    sparse_quads(x, rows, x.high, 0, 2, acc);
    sparse_quads(x, rows, x.high, 2, 4, acc);
    add_panel(acc[0], sums);
    add_panel(acc[1], sums_high);
}

FUNCTION static void product_sparse_s8_avx2(sppim_nonzeros x, const uint8_t *rows, size_t group_stride, size_t groups,
                                            int32_t *acc, int32_t *acc_high)
{
    for (size_t p = 0; p < 2 * groups; p++) {
        const uint8_t *columns = rows + p / 2 * group_stride + p % 2 * SPPIM_PANEL;
        if (x.high)
            sparse_two_planes(x, columns, acc + p * SPPIM_PANEL, acc_high + p * SPPIM_PANEL);
        else
            sparse_one_plane(x, columns, acc + p * SPPIM_PANEL);
    }
}

/* A value where it meets its row of a pair of rows; the other row meets 0. */
INLINE __m256i in_pair(int16_t value, uint16_t index)
{
    const uint32_t word = (uint16_t)value;
    return _mm256_set1_epi32((int)(word << 16 * (index % 2)));
}

INLINE const int16_t *pair_of(const int16_t *pairs, uint16_t index) { return pairs + index / 2 * 2 * SPPIM_PANEL; }

FUNCTION static void product_sparse_s16_avx2(sppim_nonzeros x, const int16_t *pairs, int32_t *sums)
{
    __m256i acc[QUARTERS];
    for (int q = 0; q < QUARTERS; q++)
        acc[q] = load(sums + 8 * q);
    for (size_t i = 0; i < x.count; i++) {
        const __m256i operand = in_pair(x.value16[i], x.index[i]);
        const int16_t *p = pair_of(pairs, x.index[i]);
        for (int q = 0; q < QUARTERS; q++)
            acc[q] = _mm256_add_epi32(acc[q], _mm256_madd_epi16(load(p + 16 * q), operand));
    }
    for (int q = 0; q < QUARTERS; q++)
        store(sums + 8 * q, acc[q]);
}

/* bits <= 31: neither a sum nor a product of words leaves s32. */
FUNCTION static uint64_t product_finite_s16_avx2(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator,
                                                 int32_t *acc)
{
    if (accumulator.bits == 32)
        return below.product_finite_s16(x, pairs, accumulator, acc);
    const int limit = 1 << (accumulator.bits - 1), wrap = accumulator.overflow == SPPIM_WRAP;
    const __m256i low = _mm256_set1_epi32(-limit), high = _mm256_set1_epi32(limit - 1);
    const __m128i spare = _mm_cvtsi32_si128(32 - accumulator.bits);
    uint64_t same = 0;
    __m256i sum[QUARTERS];
    for (int q = 0; q < QUARTERS; q++)
        sum[q] = load(acc + 8 * q);
    for (size_t i = 0; i < x.count; i++) {
        const __m256i operand = in_pair(x.value16[i], x.index[i]);
        const int16_t *p = pair_of(pairs, x.index[i]);
        for (int q = 0; q < QUARTERS; q++) {
            const __m256i exact = _mm256_add_epi32(sum[q], _mm256_madd_epi16(load(p + 16 * q), operand));
            sum[q] = wrap ? _mm256_sra_epi32(_mm256_sll_epi32(exact, spare), spare)
                          : _mm256_min_epi32(_mm256_max_epi32(exact, low), high);
            same += count_lanes(_mm256_cmpeq_epi32(sum[q], exact));
        }
    }
    for (int q = 0; q < QUARTERS; q++)
        store(acc + 8 * q, sum[q]);
    return x.count * SPPIM_PANEL - same;
}

/* ---- activations and errors -------------------------------------------------------------------------------------- */

/* A1.1, rnu, without a sum that could overflow. */
INLINE __m256i round_shift(__m256i x, int shift)
{
    if (shift == 0)
        return x;
    const __m256i half = _mm256_sra_epi32(x, _mm_cvtsi32_si128(shift - 1));
    return _mm256_add_epi32(_mm256_srai_epi32(half, 1), _mm256_and_si256(half, _mm256_set1_epi32(1)));
}

/* Words of both halves, by column, to bytes. */
INLINE __m256i pack_columns(__m256i first, __m256i second)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xD8);
}

FUNCTION static size_t requantize_relu_s32_avx2(const int32_t *acc, int shift, int hi, int8_t *y)
{
    const __m256i top = _mm256_set1_epi32(hi);
    __m256i v[QUARTERS];
    size_t saturated = 0;
    for (int q = 0; q < QUARTERS; q++) {
        v[q] = round_shift(load(acc + 8 * q), shift);
        saturated += count_lanes(_mm256_cmpgt_epi32(v[q], top));
        v[q] = _mm256_max_epi32(_mm256_min_epi32(v[q], top), _mm256_setzero_si256());
    }
    store(y, pack_columns(_mm256_packs_epi32(v[0], v[2]), _mm256_packs_epi32(v[1], v[3])));
    return saturated;
}

FUNCTION static void widen_s32_avx2(const int32_t *sum, size_t count, int64_t *acc)
{
    for (size_t i = 0; i < count; i += 4) {
        const __m256i wide = _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(sum + i)));
        store(acc + i, _mm256_add_epi64(load(acc + i), wide));
    }
}

FUNCTION static size_t gate_s32_avx2(const int32_t *acc, const int8_t *y, int shift, int8_t *d)
{
    const __m256i limit = _mm256_set1_epi16(SPPIM_ERROR_MAX), lowest = _mm256_set1_epi16(-SPPIM_ERROR_MAX);
    __m256i gated[2];
    size_t saturated = 0;
    for (int h = 0; h < 2; h++) {
        const __m256i rounded = _mm256_packs_epi32(round_shift(load(acc + 8 * h), shift),
                                                   round_shift(load(acc + 8 * h + 16), shift));
        const __m256i clamped = _mm256_max_epi16(_mm256_min_epi16(rounded, limit), lowest);
        const __m256i wide_y = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(y + 16 * h)));
        const __m256i open = _mm256_cmpgt_epi16(wide_y, _mm256_setzero_si256());
        const __m256i changed = _mm256_andnot_si256(_mm256_cmpeq_epi16(clamped, rounded), open);
        saturated += count_bits((unsigned)_mm256_movemask_epi8(changed)) / 2;
        gated[h] = _mm256_and_si256(open, clamped);
    }
    store(d, pack_columns(gated[0], gated[1]));
    return saturated;
}

/* ---- facts about inputs, and their other orders ------------------------------------------------------------------ */

FUNCTION static size_t census_s8_avx2(const int8_t *x, size_t count, int32_t *sum)
{
    const __m256i zero = _mm256_setzero_si256(), offset = _mm256_set1_epi8((char)SPPIM_OFFSET);
    __m256i sums = zero; /* of bytes with the offset */
    size_t found = 0, i = 0;
    int64_t part[4];
    for (; i + 32 <= count; i += 32) {
        const __m256i v = load(x + i);
        found += 32 - count_bits((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, zero)));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_xor_si256(v, offset), zero));
    }
    store(part, sums);
    *sum = (int32_t)(part[0] + part[1] + part[2] + part[3] - (int64_t)i * SPPIM_OFFSET);
    for (; i < count; i++) {
        found += x[i] != 0;
        *sum += x[i];
    }
    return found;
}

INLINE void add_widened(__m256i words, int32_t *to)
{
    add_to(to, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(words)));
    add_to(to + 8, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1)));
}

FUNCTION static void tally_s8_avx2(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum,
                                   uint32_t *nonzeros)
{
    const __m256i zero = _mm256_setzero_si256();
    for (size_t c = 0; c < columns; c += 32) {
        __m256i low = zero, high = zero, count = _mm256_set1_epi8((char)rows);
        for (size_t r = 0; r < rows; r++) { /* 255 bytes fit in a word, 255 ones in a byte */
            const __m256i v = load(x + r * ld + c);
            low = _mm256_add_epi16(low, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v)));
            high = _mm256_add_epi16(high, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1)));
            count = _mm256_add_epi8(count, _mm256_cmpeq_epi8(v, zero));
        }
        add_widened(low, sum + c);
        add_widened(high, sum + c + 16);
        add_widened(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(count)), (int32_t *)nonzeros + c);
        add_widened(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(count, 1)), (int32_t *)nonzeros + c + 16);
    }
}

INLINE __m256i row_or_zeros(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld)
{
    return i < rows ? load(x + row[i] * ld) : _mm256_setzero_si256();
}

INLINE void interleave_bytes(const __m256i from[16], __m256i to[16])
{
    for (int r = 0; r < 8; r++) {
        to[2 * r] = _mm256_unpacklo_epi8(from[r], from[r + 8]);
        to[2 * r + 1] = _mm256_unpackhi_epi8(from[r], from[r + 8]);
    }
}

/* Sixteen rows of 32 columns: four rounds of interleaving turn each 128-bit lane around. */
INLINE void transpose_16(const int8_t *x, const uint16_t *row, size_t i, size_t rows, size_t ld, int8_t *out,
                         size_t ld_out)
{
    __m256i a[16], b[16];
    for (size_t r = 0; r < 16; r++)
        a[r] = row_or_zeros(x, row, i + r, rows, ld);
    interleave_bytes(a, b);
    interleave_bytes(b, a);
    interleave_bytes(a, b);
    interleave_bytes(b, a);
    for (size_t c = 0; c < 16; c++) {
        _mm_storeu_si128((__m128i *)(out + c * ld_out), _mm256_castsi256_si128(a[c]));
        _mm_storeu_si128((__m128i *)(out + (c + 16) * ld_out), _mm256_extracti128_si256(a[c], 1));
    }
}

FUNCTION static void transpose_s8_avx2(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns,
                                       int8_t *out, size_t ld_out)
{
    for (size_t c = 0; c < columns; c += 32)
        for (size_t i = 0; i < rows; i += 16)
            transpose_16(x + c, row, i, rows, ld, out + c * ld_out + i, ld_out);
}

FUNCTION static void pack_s8_avx2(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, uint8_t *quads,
                                  size_t quad_stride, uint8_t *out_rows)
{
    const __m256i offset = _mm256_set1_epi8((char)SPPIM_OFFSET);
    for (size_t i = 0; i < rows; i += SPPIM_DEPTH)
        for (size_t p = 0; p < 2; p++) {
            __m256i r[4], interleaved[4], quarter[QUARTERS];
            for (size_t k = 0; k < 4; k++) {
                r[k] = _mm256_xor_si256(row_or_zeros(x + p * SPPIM_PANEL, row, i + k, rows, ld), offset);
                store(out_rows + (i + k) * SPPIM_GROUP + p * SPPIM_PANEL, r[k]);
            }
            interleave_first(r, interleaved);
            interleave_second(r, interleaved + 2);
            to_quarters(interleaved, quarter);
            for (size_t q = 0; q < QUARTERS; q++)
                store(quads + p * quad_stride + i * SPPIM_PANEL + 32 * q, quarter[q]);
        }
}

/* ---- update ------------------------------------------------------------------------------------------------------ */

/* A3.1 */
INLINE __m256i mix32(__m256i x)
{
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
    x = _mm256_mullo_epi32(x, _mm256_set1_epi32((int)0x85EBCA6Bu));
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 13));
    x = _mm256_mullo_epi32(x, _mm256_set1_epi32((int)0xC2B2AE35u));
    return _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
}

INLINE __m256i draw32(const sppim_update *u, uint32_t first)
{
    const __m256i i = _mm256_add_epi32(_mm256_set1_epi32((int)first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return mix32(_mm256_add_epi32(_mm256_xor_si256(i, _mm256_set1_epi32((int)u->k1)), _mm256_set1_epi32((int)u->k0)));
}

/* Low words of a beside low words of b, and the high ones. */
INLINE __m256i low_words(__m256i a, __m256i b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA); }

INLINE __m256i high_words(__m256i a, __m256i b) { return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xAA); }

/* A3.4: 16 consecutive numbers of 16 bits. */
INLINE __m256i draw16(const sppim_update *u, uint32_t first)
{
    const __m256i even = draw32(u, first / 2);
    if (first % 2 == 0)
        return even;
    return low_words(_mm256_srli_epi32(even, 16), draw32(u, first / 2 + 1));
}

/* Numbers of half a panel of two rows as pairs. */
INLINE void draw_pairs(const sppim_update *u, uint32_t index, __m256i random[2])
{
    const __m256i u0 = draw16(u, index), u1 = draw16(u, index + (uint32_t)u->columns);
    random[0] = _mm256_unpacklo_epi16(u0, u1);
    random[1] = _mm256_unpackhi_epi16(u0, u1);
}

typedef struct constants { /* what an update needs in registers */
    __m256i limit, half, lowest;
    __m128i up, drop;
} constants;

/* A1.2 and A7.3 for a vector of pairs: gradient a of their first, b of their second row, |gradient| >> shift below
 * 2^15 - 1. */
INLINE __m256i new_weights(__m256i w, __m256i a, __m256i b, __m256i random, const constants *c, __m256i *exact)
{
    const __m256i ta = _mm256_sll_epi32(a, c->up), tb = _mm256_sll_epi32(b, c->up); /* integer part above, fraction below */
    /* random + fraction carries where random > ~fraction; top bits turned, for want of an unsigned comparison */
    const __m256i rest = _mm256_xor_si256(low_words(ta, tb), _mm256_set1_epi16(INT16_MAX));
    const __m256i carry = _mm256_cmpgt_epi16(_mm256_xor_si256(random, _mm256_set1_epi16(INT16_MIN)), rest);
    *exact = _mm256_subs_epi16(w, _mm256_sub_epi16(high_words(ta, tb), carry));
    return _mm256_max_epi16(_mm256_min_epi16(*exact, c->limit), _mm256_sub_epi16(_mm256_setzero_si256(), c->limit));
}

/* A5.2; the sum saturates where the clamp would act anyway. */
INLINE __m256i product_weights(__m256i w, const constants *c)
{
    return _mm256_max_epi16(_mm256_sra_epi16(_mm256_adds_epi16(w, c->half), c->drop), c->lowest);
}

/* One bit for each word of a and b that is all ones, others being zero: words of even places in even bits. */
INLINE unsigned word_mask(__m256i a, __m256i b) { return (unsigned)_mm256_movemask_epi8(_mm256_packs_epi16(a, b)); }

/* Product weights of four rows of a quarter as bytes: pairs v01 of rows 0, 1 and v23 of rows 2, 3. */
INLINE void store_quads(__m256i v01, __m256i v23, uint8_t *to)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_packs_epi16(v01, v23), order);
    store(to, _mm256_xor_si256(bytes, _mm256_set1_epi8((char)SPPIM_OFFSET)));
}

/* Half of two rows, 16 columns each. */
INLINE void store_two_rows(const __m256i v[2], uint8_t *to)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m256i mixed = _mm256_shuffle_epi8(_mm256_packs_epi16(v[0], v[1]), order);
    const __m256i rows = _mm256_xor_si256(_mm256_permute4x64_epi64(mixed, 0xD8), _mm256_set1_epi8((char)SPPIM_OFFSET));
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(rows));
    _mm_storeu_si128((__m128i *)(to + SPPIM_GROUP), _mm256_extracti128_si256(rows, 1));
}

/* Number of zeros of the first row in the low byte, of the second in the next. */
INLINE uint32_t count_zeros(const __m256i v[2])
{
    const __m256i zero = _mm256_setzero_si256();
    const unsigned mask = word_mask(_mm256_cmpeq_epi16(v[0], zero), _mm256_cmpeq_epi16(v[1], zero));
    return (uint32_t)(count_bits(mask & 0x55555555u) | count_bits(mask & 0xAAAAAAAAu) << 8);
}

/* Half h of rows row and row + 1 of the panel: new weights, and their product weights into v. Adds the zeros of the rows, a
 * byte for each; returns the number of weights that were not clipped. */
INLINE size_t update_pair(const sppim_update *u, const int32_t *gradient, size_t ld, size_t row, size_t h, uint32_t index,
                          const sppim_update_rows *panel, const constants *c, __m256i v[2], uint32_t *zeros)
{
    const size_t at = row * SPPIM_PANEL + 16 * h;
    __m256i random[2], same[2];
    draw_pairs(u, index + (uint32_t)(row * u->columns + 16 * h), random);
    for (size_t i = 0; i < 2; i++) {
        const int32_t *g = gradient + row * ld + 8 * h + 16 * i;
        __m256i exact;
        const __m256i next = new_weights(load(panel->w + at + 32 * i), load(g), load(g + ld), random[i], c, &exact);
        store(panel->w_next + at + 32 * i, next);
        same[i] = _mm256_cmpeq_epi16(next, exact);
        v[i] = product_weights(next, c);
        if (panel->pairs)
            store(panel->pairs + at + 32 * i, v[i]);
    }
    if (panel->rows)
        store_two_rows(v, panel->rows + row * SPPIM_GROUP + 16 * h);
    *zeros += count_zeros(v) << 8 * (row % 4);
    return count_bits(word_mask(same[0], same[1]));
}

/* Four rows from row r of the panel on, half by half; returns the number of clipped weights. */
INLINE size_t update_four(const sppim_update *u, const int32_t *gradient, size_t ld, size_t r, uint32_t index,
                          const sppim_update_rows *panel, const constants *c)
{
    size_t same = 0;
    uint32_t zeros = 0; /* a byte for each row */
    for (size_t h = 0; h < 2; h++) {
        __m256i v01[2], v23[2];
        same += update_pair(u, gradient, ld, r, h, index, panel, c, v01, &zeros);
        same += update_pair(u, gradient, ld, r + 2, h, index, panel, c, v23, &zeros);
        for (size_t i = 0; panel->quads && i < 2; i++)
            store_quads(v01[i], v23[i], panel->quads + r * SPPIM_PANEL + 32 * h + 64 * i);
    }
    __builtin_memcpy(panel->zeros + r, &zeros, sizeof zeros);
    return 4 * SPPIM_PANEL - same;
}

INLINE constants update_constants(const sppim_update *u)
{
    const int drop = 16 - u->product_bits;
    return (constants){
        .limit = _mm256_set1_epi16(SPPIM_WEIGHT_MAX),
        .half = _mm256_set1_epi16((short)((1 << drop) >> 1)),
        .lowest = _mm256_set1_epi16((short)-((1 << (u->product_bits - 1)) - 1)),
        .up = _mm_cvtsi32_si128(16 - u->shift),
        .drop = _mm_cvtsi32_si128(drop),
    };
}

/* Whether every |gradient| >> shift of four rows is below 2^15 - 1. */
INLINE int four_are_narrow(const int32_t *gradient, size_t ld, int shift)
{
    const __m256i bound = _mm256_set1_epi32((INT16_MAX - 1) << shift);
    __m256i most = bound;
    for (size_t i = 0; i < 4 * QUARTERS; i++)
        most = _mm256_max_epu32(most, _mm256_abs_epi32(load(gradient + i / QUARTERS * ld + 8 * (i % QUARTERS))));
    return count_lanes(_mm256_cmpeq_epi32(most, bound)) == 8;
}

static sppim_update_rows further(sppim_update_rows panel, size_t row)
{
    panel.w += row * SPPIM_PANEL;
    panel.w_next += row * SPPIM_PANEL;
    panel.zeros += row;
    panel.quads = panel.quads ? panel.quads + row * SPPIM_PANEL : NULL;
    panel.rows = panel.rows ? panel.rows + row * SPPIM_GROUP : NULL;
    panel.pairs = panel.pairs ? panel.pairs + row * SPPIM_PANEL : NULL;
    return panel;
}

FUNCTION static size_t update_s16_avx2(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows,
                                       uint32_t index, sppim_update_rows panel)
{
    if (u->round != SPPIM_SR || u->shift > 16)
        return below.update_s16(u, gradient, ld, rows, index, panel);
    const constants c = update_constants(u);
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r += 4)
        if (u->narrow || four_are_narrow(gradient + r * ld, ld, u->shift))
            clipped += update_four(u, gradient, ld, r, index, &panel, &c);
        else
            clipped += below.update_s16(u, gradient + r * ld, ld, 4, index + (uint32_t)(r * u->columns),
                                        further(panel, r));
    return clipped;
}

void sppim_kernels_install_avx2(sppim_kernels *table)
{
    below = *table;
    table->census_s8 = census_s8_avx2;
    table->tally_s8 = tally_s8_avx2;
    table->transpose_s8 = transpose_s8_avx2;
    table->pack_s8 = pack_s8_avx2;
    table->product_s8 = product_s8_avx2;
    table->product_s16 = product_s16_avx2;
    table->product_sparse_s8 = product_sparse_s8_avx2;
    table->product_sparse_s16 = product_sparse_s16_avx2;
    table->product_finite_s16 = product_finite_s16_avx2;
    table->requantize_relu_s32 = requantize_relu_s32_avx2;
    table->widen_s32 = widen_s32_avx2;
    table->gate_s32 = gate_s32_avx2;
    table->update_s16 = update_s16_avx2;
}

#endif
