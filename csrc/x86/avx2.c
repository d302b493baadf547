/* What AVX2 does better than plain C. Words are multiplied by vpmaddwd; bytes are widened to words first, in even
 * and odd places, or go through vpmaddubsw where it cannot saturate. A panel is four vectors of eight lanes:
 * "quarters", the unit in which everything here is counted. Quarters h and h + 2 hold the columns 16 h .. 16 h + 15:
 * "half" h. */
#include <string.h>

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
#define EXACT    127 /* steps whose sums of words times bytes fit 32 bits: each is four products, at most 2^24 */

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

/* Half a row of sums, by lane, to its columns 0..7 and 8..15. */
INLINE void by_column(__m256i *first, __m256i *second)
{
    const __m256i low = low_lanes(*first, *second);
    *second = high_lanes(*first, *second);
    *first = low;
}

/* Half h of the sums of a row. */
INLINE void store_half(__m256i first, __m256i second, size_t h, int32_t *out, int order)
{
    if (order == SPPIM_LANES) {
        store(out + 8 * h, first);
        store(out + 8 * h + 16, second);
    } else {
        by_column(&first, &second);
        store(out + 16 * h, first);
        store(out + 16 * h + 8, second);
    }
}

/* out = from + 2^shift sums, of eight columns. */
INLINE void store_wide(__m256i sums, __m128i shift, const int64_t *from, int64_t *out)
{
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums, 1));
    store(out, _mm256_add_epi64(load(from), _mm256_sll_epi64(low, shift)));
    store(out + 4, _mm256_add_epi64(load(from + 4), _mm256_sll_epi64(high, shift)));
}

/* The same for half a row. */
INLINE void store_wide_half(__m256i first, __m256i second, __m128i shift, const int64_t *from, int64_t *out)
{
    by_column(&first, &second);
    store_wide(first, shift, from, out);
    store_wide(second, shift, from + 8, out + 8);
}

/* ---- dense products of words ------------------------------------------------------------------------------------- */

/* rows and quarters (two: one half; or all four) are constants wherever this is inlined, so that acc lives in
 * registers. */
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

typedef struct wide_sums { /* where those of a tile go: start null: they are added to out */
    __m128i shift;
    const int64_t *start;
    int64_t *out;
    size_t ld;
} wide_sums;

INLINE void store_row(__m256i first, __m256i second, size_t h, const wide_sums *to, int r)
{
    int64_t *out = to->out + (size_t)r * to->ld + 16 * h;
    store_wide_half(first, second, to->shift, to->start ? to->start + 16 * h : out, out);
}

/* Many rows: half of the panel at a time. */
INLINE void halves_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, const wide_sums *to)
{
    for (size_t h = 0; h < 2; h++) {
        __m256i acc[ROWS_S16][QUARTERS];
        tile_s16(x, ld, rows, steps, pairs + 16 * h, 2, acc);
        for (int r = 0; r < rows; r++)
            store_row(acc[r][0], acc[r][1], h, to, r);
    }
}

/* Few rows: the weights are read once. */
INLINE void whole_s16(const int16_t *x, size_t ld, int rows, size_t steps, const int16_t *pairs, const wide_sums *to)
{
    __m256i acc[ROWS_S16][QUARTERS];
    tile_s16(x, ld, rows, steps, pairs, 4, acc);
    for (int r = 0; r < rows; r++)
        for (size_t h = 0; h < 2; h++)
            store_row(acc[r][h], acc[r][h + 2], h, to, r);
}

FUNCTION static void product_s16_avx2(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs,
                                      int shift, const int64_t *start, int64_t *out, size_t ld_out)
{
    for (size_t r0 = 0, count; r0 < rows; r0 += count) {
        const int16_t *operands = x + r0 * ld;
        const wide_sums to = {_mm_cvtsi32_si128(shift), start, out + r0 * ld_out, ld_out};
        count = sppim_next_tile(rows - r0, ROWS_S16);
        switch (count) {
        case 1: whole_s16(operands, ld, 1, steps, pairs, &to); break;
        case 2: whole_s16(operands, ld, 2, steps, pairs, &to); break;
        case 3: halves_s16(operands, ld, 3, steps, pairs, &to); break;
        case 4: halves_s16(operands, ld, 4, steps, pairs, &to); break;
        case 5: halves_s16(operands, ld, 5, steps, pairs, &to); break;
        default: halves_s16(operands, ld, ROWS_S16, steps, pairs, &to);
        }
    }
}

/* ---- dense products of bytes ------------------------------------------------------------------------------------- */

/* Words in even and in odd places: of signed bytes, as weights are; of unsigned ones, as operands are. */
INLINE __m256i even_words(__m256i w) { return _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8); }

INLINE __m256i odd_words(__m256i w) { return _mm256_srai_epi16(w, 8); }

INLINE __m256i even_unsigned(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi16(255)); }

INLINE __m256i odd_unsigned(__m256i x) { return _mm256_srli_epi16(x, 8); }

INLINE __m256i dot(__m256i even, __m256i odd, __m256i even_operand, __m256i odd_operand)
{
    return _mm256_add_epi32(_mm256_madd_epi16(even, even_operand), _mm256_madd_epi16(odd, odd_operand));
}

/* Without widening: two products of bytes fit a word if the operands are at most 128. */
INLINE __m256i add_bytes(__m256i sum, __m256i operand, __m256i quads, __m256i one)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(operand, quads), one));
}

INLINE bool any_above(const uint8_t *value, size_t count, uint8_t limit)
{
    uint8_t most = 0;
    for (size_t i = 0; i < count; i++)
        most = value[i] > most ? value[i] : most;
    return most > limit;
}

typedef struct widened { /* operands of a tile */
    int32_t even[ROWS_S8][CHUNK], odd[ROWS_S8][CHUNK];
} widened;

INLINE void widen_row(const int8_t *x, size_t steps, int flip, int32_t *even, int32_t *odd)
{
    for (size_t s = 0; s < steps; s += 8) {
        __m256i bytes = _mm256_setzero_si256();
        if (steps - s >= 8)
            bytes = load(x + 4 * s);
        else
            __builtin_memcpy(&bytes, x + 4 * s, 4 * (steps - s));
        bytes = _mm256_xor_si256(bytes, _mm256_set1_epi8((char)flip));
        store(even + s, even_unsigned(bytes));
        store(odd + s, odd_unsigned(bytes));
    }
}

/* rows is a constant wherever this is inlined. */
INLINE void half_s8(const widened *x, int rows, size_t steps, const int8_t *quads, size_t h, __m256i sums[][QUARTERS])
{
    __m256i acc[ROWS_S8][2];
    for (int r = 0; r < rows; r++)
        for (size_t v = 0; v < 2; v++)
            acc[r][v] = sums[r][h + 2 * v];
    for (size_t s = 0; s < steps; s++) {
        const __m256i w0 = load(quads + 128 * s + 32 * h), w1 = load(quads + 128 * s + 32 * h + 64);
        const __m256i even0 = even_words(w0), odd0 = odd_words(w0);
        const __m256i even1 = even_words(w1), odd1 = odd_words(w1);
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

/* The same for operands that are at most 128. */
INLINE void half_bytes(const int8_t *x, size_t ld, int rows, size_t steps, const int8_t *quads, size_t h,
                       __m256i sums[][QUARTERS])
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i acc[ROWS_S8][2];
    for (int r = 0; r < rows; r++)
        for (size_t v = 0; v < 2; v++)
            acc[r][v] = sums[r][h + 2 * v];
    for (size_t s = 0; s < steps; s++) {
        const __m256i w0 = load(quads + 128 * s + 32 * h), w1 = load(quads + 128 * s + 32 * h + 64);
        for (int r = 0; r < rows; r++) {
            const __m256i operand = broadcast(x + (size_t)r * ld + 4 * s);
            acc[r][0] = add_bytes(acc[r][0], operand, w0, one);
            acc[r][1] = add_bytes(acc[r][1], operand, w1, one);
        }
    }
    for (int r = 0; r < rows; r++)
        for (size_t v = 0; v < 2; v++)
            sums[r][h + 2 * v] = acc[r][v];
}

INLINE bool tile_is_wide(const int8_t *x, size_t ld, int rows, size_t steps, int flip)
{
    bool wide = flip != SPPIM_UNSIGNED;
    for (int r = 0; !wide && r < rows; r++)
        wide = any_above((const uint8_t *)x + (size_t)r * ld, 4 * steps, 128);
    return wide;
}

INLINE __m256i start_of(sppim_start start, size_t r, size_t quarter)
{
    const __m256i sum = start.column ? load(start.column + 8 * quarter) : _mm256_setzero_si256();
    return start.scale ? _mm256_mullo_epi32(sum, _mm256_set1_epi32(start.scale[r])) : sum;
}

INLINE void tile_s8(const int8_t *x, size_t ld, int rows, size_t steps, int flip, const int8_t *quads,
                    __m256i sums[][QUARTERS])
{
    widened operands;
    for (size_t s = 0, count; s < steps; s += count) {
        count = sppim_smaller(CHUNK, steps - s);
        if (!tile_is_wide(x + 4 * s, ld, rows, count, flip)) {
            for (size_t h = 0; h < 2; h++)
                half_bytes(x + 4 * s, ld, rows, count, quads + 128 * s, h, sums);
            continue;
        }
        for (int r = 0; r < rows; r++)
            widen_row(x + (size_t)r * ld + 4 * s, count, flip, operands.even[r], operands.odd[r]);
        for (size_t h = 0; h < 2; h++)
            half_s8(&operands, rows, count, quads + 128 * s, h, sums);
    }
}

FUNCTION static void product_s8_avx2(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                                     sppim_start start, int32_t *out, size_t ld_out, int order)
{
    for (size_t r0 = 0, count; r0 < rows; r0 += count) {
        const int8_t *operands = x + r0 * ld;
        __m256i sums[ROWS_S8][QUARTERS];
        count = sppim_next_tile(rows - r0, ROWS_S8);
        for (size_t r = 0; r < count; r++)
            for (size_t q = 0; q < QUARTERS; q++)
                sums[r][q] = start_of(start, r0 + r, q);
        switch (count) {
        case 1: tile_s8(operands, ld, 1, steps, flip, quads, sums); break;
        case 2: tile_s8(operands, ld, 2, steps, flip, quads, sums); break;
        case 3: tile_s8(operands, ld, 3, steps, flip, quads, sums); break;
        default: tile_s8(operands, ld, ROWS_S8, steps, flip, quads, sums);
        }
        for (size_t r = 0; r < count; r++)
            for (size_t h = 0; h < 2; h++)
                store_half(sums[r][h], sums[r][h + 2], h, out + (r0 + r) * ld_out, order);
    }
}

/* ---- products that skip zeros ------------------------------------------------------------------------------------ */

/* Quads of 32 columns of four rows: vector q holds columns 16 i + 4 q + 0..3 in its 128-bit lane i. */
INLINE void interleave(const __m256i r[4], __m256i quads[4])
{
    const __m256i low01 = _mm256_unpacklo_epi8(r[0], r[1]), high01 = _mm256_unpackhi_epi8(r[0], r[1]);
    const __m256i low23 = _mm256_unpacklo_epi8(r[2], r[3]), high23 = _mm256_unpackhi_epi8(r[2], r[3]);
    quads[0] = _mm256_unpacklo_epi16(low01, low23);
    quads[1] = _mm256_unpackhi_epi16(low01, low23);
    quads[2] = _mm256_unpacklo_epi16(high01, high23);
    quads[3] = _mm256_unpackhi_epi16(high01, high23);
}

/* Interleaved quads of a panel, or their sums, to quarters. */
INLINE void to_quarters(const __m256i quads[4], __m256i quarter[QUARTERS])
{
    for (int v = 0; v < 2; v++) {
        quarter[2 * v] = low_lanes(quads[v], quads[v + 2]);
        quarter[2 * v + 1] = high_lanes(quads[v], quads[v + 2]);
    }
}

/* Quads of 32 columns of the rows of four non-zeros. */
INLINE void gather_quads(const int8_t *rows, const uint16_t *index, __m256i quads[4])
{
    __m256i r[4];
    for (size_t k = 0; k < 4; k++)
        r[k] = load(rows + index[k] * SPPIM_GROUP);
    interleave(r, quads);
}

/* Adds non-zeros from .. to - 1, each `one` times, to sums of quads. Where some may be above 128 (wide), their top
 * bits are multiplied apart. panels and wide are constants wherever this is inlined. */
INLINE void add_nonzeros(const sppim_nonzeros *x, size_t from, size_t to, int one, const int8_t *rows, int panels, bool wide,
                         __m256i acc[][4])
{
    const __m256i ones = _mm256_set1_epi16((short)one), bit = _mm256_set1_epi8(-128);
    for (size_t i = from; i < to; i += 4) {
        const __m256i value = broadcast(x->value + i);
        const __m256i low = wide ? _mm256_andnot_si256(bit, value) : value, top = _mm256_and_si256(bit, value);
        for (int p = 0; p < panels; p++) {
            __m256i quads[4];
            gather_quads(rows + (size_t)p * SPPIM_PANEL, x->index + i, quads);
            for (int q = 0; q < 4; q++) {
                acc[p][q] = add_bytes(acc[p][q], low, quads[q], ones);
                if (wide)
                    acc[p][q] = add_bytes(acc[p][q], top, quads[q], ones);
            }
        }
    }
}

INLINE void sparse_s8(const sppim_nonzeros *x, const int8_t *rows, int panels, bool wide, __m256i sums[][4])
{
    __m256i acc[2][4];
    for (int p = 0; p < panels; p++)
        for (int q = 0; q < 4; q++)
            acc[p][q] = _mm256_setzero_si256();
    add_nonzeros(x, 0, x->negatives, -1, rows, panels, wide, acc);
    add_nonzeros(x, x->negatives, x->count, 1, rows, panels, wide, acc);
    for (int p = 0; p < panels; p++)
        for (int q = 0; q < 4; q++)
            sums[p][q] = acc[p][q];
}

/* Registers do for a panel at a time, if nothing outside keeps any. */
FUNCTION __attribute__((noinline)) static void sparse_wide_s8(const sppim_nonzeros *x, const int8_t *rows, __m256i sums[][4])
{
    sparse_s8(x, rows, 1, true, sums);
}

INLINE void store_panel(const __m256i sums[4], sppim_start start, int32_t *out, int order)
{
    __m256i quarter[QUARTERS];
    to_quarters(sums, quarter);
    for (size_t q = 0; q < QUARTERS; q++)
        quarter[q] = _mm256_add_epi32(quarter[q], start_of(start, 0, q));
    for (size_t h = 0; h < 2; h++)
        store_half(quarter[h], quarter[h + 2], h, out, order);
}

FUNCTION static void product_sparse_s8_avx2(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                            sppim_start start, int32_t *out, int order)
{
    const bool wide = any_above(x.value, x.count, 128);
    for (size_t g = 0; g < groups; g++, rows += group_stride) {
        __m256i sums[2][4];
        if (!wide)
            sparse_s8(&x, rows, 2, false, sums);
        for (size_t p = 0; wide && p < 2; p++)
            sparse_wide_s8(&x, rows + p * SPPIM_PANEL, sums + p);
        for (size_t p = 2 * g; p < 2 * g + 2; p++) {
            const int32_t *column = start.column ? start.column + p * SPPIM_PANEL : NULL;
            store_panel(sums[p % 2], (sppim_start){column, start.scale}, out + p * SPPIM_PANEL, order);
        }
    }
}

typedef struct widened_list { /* words with their signs */
    int32_t even[EXACT + 1], odd[EXACT + 1];
} widened_list;

/* Magnitudes as words with a sign, negative where that is all ones; what no longer has its sign is wrong. */
INLINE __m256i with_sign(__m256i magnitude, __m256i negative, __m256i *wrong)
{
    const __m256i v = _mm256_sub_epi16(_mm256_xor_si256(magnitude, negative), negative);
    const __m256i turned = _mm256_cmpgt_epi16(_mm256_setzero_si256(), _mm256_xor_si256(v, negative));
    const __m256i zero = _mm256_cmpeq_epi16(v, _mm256_setzero_si256());
    *wrong = _mm256_or_si256(*wrong, _mm256_andnot_si256(zero, turned));
    return v;
}

/* Steps of a list, the first of them negative; whether they fit words. */
INLINE bool widen_list(const uint8_t *low, const uint8_t *high, size_t steps, size_t negatives, widened_list *to)
{
    __m256i wrong = _mm256_setzero_si256();
    for (size_t s = 0; s < steps; s += 8) {
        __m256i lows = _mm256_setzero_si256(), highs = lows;
        memcpy(&lows, low + 4 * s, 4 * sppim_smaller(8, steps - s));
        memcpy(&highs, high + 4 * s, 4 * sppim_smaller(8, steps - s));
        const __m256i place = _mm256_add_epi32(_mm256_set1_epi32((int)s), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        const __m256i negative = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)negatives), place);
        const __m256i even = _mm256_or_si256(even_unsigned(lows), _mm256_slli_epi16(highs, 8));
        const __m256i odd = _mm256_blendv_epi8(odd_unsigned(lows), highs, _mm256_set1_epi16(-256));
        store(to->even + s, with_sign(even, negative, &wrong));
        store(to->odd + s, with_sign(odd, negative, &wrong));
    }
    return _mm256_testz_si256(wrong, wrong);
}

/* Adds the products of a panel. */
INLINE void sparse_s16s8(const widened_list *x, const uint16_t *index, size_t steps, const int8_t *rows, int64_t *out)
{
    __m256i acc[4];
    for (int q = 0; q < 4; q++)
        acc[q] = _mm256_setzero_si256();
    for (size_t s = 0; s < steps; s++) {
        const __m256i even = _mm256_set1_epi32(x->even[s]), odd = _mm256_set1_epi32(x->odd[s]);
        __m256i quads[4];
        gather_quads(rows, index + 4 * s, quads);
        for (int q = 0; q < 4; q++)
            acc[q] = _mm256_add_epi32(acc[q], dot(even_words(quads[q]), odd_words(quads[q]), even, odd));
    }
    for (size_t v = 0; v < 2; v++) {
        int64_t *to = out + 8 * v;
        store_wide(low_lanes(acc[2 * v], acc[2 * v + 1]), _mm_setzero_si128(), to, to);
        store_wide(high_lanes(acc[2 * v], acc[2 * v + 1]), _mm_setzero_si128(), to + 16, to + 16);
    }
}

FUNCTION static void product_sparse_s16s8_avx2(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                               int64_t *out)
{
    widened_list operands;
    memset(out, 0, groups * SPPIM_GROUP * sizeof *out);
    for (size_t i = 0, steps; i < x.count; i += 4 * steps) {
        steps = sppim_smaller(EXACT, (x.count - i) / 4);
        const size_t negatives = x.negatives > i ? (x.negatives - i) / 4 : 0;
        if (!widen_list(x.value + i, x.high + i, steps, negatives, &operands)) { /* no words had such bytes */
            below.product_sparse_s16s8(x, rows, group_stride, groups, out);
            return;
        }
        for (size_t p = 0; p < 2 * groups; p++)
            sparse_s16s8(&operands, x.index + i, steps, rows + p / 2 * group_stride + p % 2 * SPPIM_PANEL,
                         out + p * SPPIM_PANEL);
    }
}

FUNCTION static void product_sparse_s16_avx2(sppim_nonzeros x, const int16_t *words, size_t group_stride, size_t groups,
                                             const int64_t *start, int64_t *out)
{
    for (size_t g = 0; g < groups; g++, words += group_stride, out += SPPIM_GROUP) {
        const int64_t *from = start ? start + g * SPPIM_GROUP : out;
        __m256i acc[4][2];
        for (int v = 0; v < 4; v++)
            acc[v][0] = acc[v][1] = _mm256_setzero_si256();
        for (size_t i = 0; i < x.count; i += 2) {
            const int16_t *row0 = words + x.index[i] * SPPIM_GROUP, *row1 = words + x.index[i + 1] * SPPIM_GROUP;
            const __m256i operand = broadcast(x.value16 + i);
            for (int v = 0; v < 4; v++) {
                const __m256i w0 = load(row0 + 16 * v), w1 = load(row1 + 16 * v);
                acc[v][0] = _mm256_add_epi32(acc[v][0], _mm256_madd_epi16(_mm256_unpacklo_epi16(w0, w1), operand));
                acc[v][1] = _mm256_add_epi32(acc[v][1], _mm256_madd_epi16(_mm256_unpackhi_epi16(w0, w1), operand));
            }
        }
        for (size_t v = 0; v < 4; v++)
            store_wide_half(acc[v][0], acc[v][1], _mm_setzero_si128(), from + 16 * v, out + 16 * v);
    }
}

/* A value where it meets its row of a pair of rows; the other row meets 0. */
INLINE __m256i in_pair(int16_t value, uint16_t index)
{
    const uint32_t word = (uint16_t)value;
    return _mm256_set1_epi32((int)(word << 16 * (index % 2)));
}

INLINE const int16_t *pair_of(const int16_t *pairs, uint16_t index) { return pairs + index / 2 * 2 * SPPIM_PANEL; }

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

FUNCTION static size_t census_s8_avx2(const int8_t *x, size_t count, uint8_t *bits)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i all = zero, zeros = zero;
    size_t i = 0;
    uint64_t part[4], bytes;
    while (i + 32 <= count) {
        const size_t end = i + sppim_smaller((count - i) / 32, 255) * 32; /* 255 ones fit in a byte */
        __m256i ones = zero;
        for (; i < end; i += 32) {
            const __m256i v = load(x + i);
            ones = _mm256_sub_epi8(ones, _mm256_cmpeq_epi8(v, zero));
            all = _mm256_or_si256(all, v);
        }
        zeros = _mm256_add_epi64(zeros, _mm256_sad_epu8(ones, zero));
    }
    store(part, all);
    bytes = part[0] | part[1] | part[2] | part[3];
    below.census_s8((const int8_t *)&bytes, sizeof bytes, bits);
    store(part, zeros);
    return i - (part[0] + part[1] + part[2] + part[3]) + below.census_s8(x + i, count - i, bits);
}

FUNCTION static size_t census_s16_avx2(const int16_t *x, size_t count, int16_t *low, int16_t *high)
{
    __m256i least = _mm256_set1_epi16(*low), most = _mm256_set1_epi16(*high);
    const __m256i zero = _mm256_setzero_si256();
    size_t zeros = 0, i = 0;
    int16_t part[16], other = 0;
    for (; i + 32 <= count; i += 32) {
        const __m256i a = load(x + i), b = load(x + i + 16);
        const __m256i mask = _mm256_packs_epi16(_mm256_cmpeq_epi16(a, zero), _mm256_cmpeq_epi16(b, zero));
        zeros += count_bits((unsigned)_mm256_movemask_epi8(mask));
        least = _mm256_min_epi16(least, _mm256_min_epi16(a, b));
        most = _mm256_max_epi16(most, _mm256_max_epi16(a, b));
    }
    store(part, least);
    below.census_s16(part, 16, low, &other);
    store(part, most);
    below.census_s16(part, 16, &other, high);
    return i - zeros + below.census_s16(x + i, count - i, low, high);
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

FUNCTION static void pack_s8_avx2(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, int8_t *quads,
                                  size_t quad_stride, int8_t *out_rows)
{
    for (size_t i = 0; i < rows; i += SPPIM_DEPTH)
        for (size_t p = 0; p < 2; p++) {
            __m256i r[4], interleaved[4], quarter[QUARTERS];
            for (size_t k = 0; k < 4; k++)
                r[k] = row_or_zeros(x + p * SPPIM_PANEL, row, i + k, rows, ld);
            for (size_t k = 0; out_rows && k < 4; k++)
                store(out_rows + (i + k) * SPPIM_GROUP + p * SPPIM_PANEL, r[k]);
            interleave(r, interleaved);
            to_quarters(interleaved, quarter);
            for (size_t q = 0; quads && q < QUARTERS; q++)
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
INLINE void store_quads(__m256i v01, __m256i v23, int8_t *to)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    store(to, _mm256_shuffle_epi8(_mm256_packs_epi16(v01, v23), order));
}

/* Half of two rows, 16 columns each. */
INLINE void store_two_rows(const __m256i v[2], int8_t *to)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m256i mixed = _mm256_shuffle_epi8(_mm256_packs_epi16(v[0], v[1]), order);
    const __m256i rows = _mm256_permute4x64_epi64(mixed, 0xD8);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(rows));
    _mm_storeu_si128((__m128i *)(to + SPPIM_GROUP), _mm256_extracti128_si256(rows, 1));
}

/* The same as words. */
INLINE void store_two_rows_of_words(const __m256i v[2], int16_t *to)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = _mm256_blend_epi16(v[0], zero, 0xAA), b = _mm256_blend_epi16(v[1], zero, 0xAA);
    store(to, _mm256_packus_epi32(a, b));
    store(to + SPPIM_GROUP, _mm256_packus_epi32(_mm256_srli_epi32(v[0], 16), _mm256_srli_epi32(v[1], 16)));
}

/* Number of zeros of the first row in the low byte, of the second in the next. */
INLINE uint32_t count_zeros(const __m256i v[2])
{
    const __m256i zero = _mm256_setzero_si256();
    const unsigned mask = word_mask(_mm256_cmpeq_epi16(v[0], zero), _mm256_cmpeq_epi16(v[1], zero));
    return (uint32_t)(count_bits(mask & 0x55555555u) | count_bits(mask & 0xAAAAAAAAu) << 8);
}

typedef struct gradients { /* of the weights of a panel: sums of a batch, or, those null, row by error */
    const int32_t *sums;
    size_t ld;
    const int16_t *row, *error;
} gradients;

/* |row error| <= 255 * 127: always narrow. */
INLINE __m256i gradient_of(const gradients *g, size_t row, size_t quarter)
{
    if (g->sums)
        return load(g->sums + row * g->ld + 8 * quarter);
    const __m256i error = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(g->error + 8 * quarter)));
    return _mm256_madd_epi16(error, _mm256_set1_epi32((uint16_t)g->row[row])); /* only the lower words meet */
}

/* Half h of rows row and row + 1 of the panel: new weights, and their product weights into v. Adds the zeros of the
 * rows, a byte for each; returns the number of weights that were not clipped. */
INLINE size_t update_pair(const sppim_update *u, const gradients *g, size_t row, size_t h, uint32_t index,
                          const sppim_update_rows *panel, const constants *c, __m256i v[2], uint32_t *zeros)
{
    const size_t at = row * SPPIM_PANEL + 16 * h;
    __m256i random[2], same[2];
    draw_pairs(u, index + (uint32_t)(row * u->columns + 16 * h), random);
    for (size_t i = 0; i < 2; i++) {
        const __m256i first = gradient_of(g, row, h + 2 * i), second = gradient_of(g, row + 1, h + 2 * i);
        __m256i exact;
        const __m256i next = new_weights(load(panel->w + at + 32 * i), first, second, random[i], c, &exact);
        store(panel->w_next + at + 32 * i, next);
        same[i] = _mm256_cmpeq_epi16(next, exact);
        v[i] = product_weights(next, c);
        if (panel->pairs)
            store(panel->pairs + at + 32 * i, v[i]);
    }
    if (panel->rows)
        store_two_rows(v, panel->rows + row * SPPIM_GROUP + 16 * h);
    if (panel->words)
        store_two_rows_of_words(v, panel->words + row * SPPIM_GROUP + 16 * h);
    *zeros += count_zeros(v) << 8 * (row % 4);
    return count_bits(word_mask(same[0], same[1]));
}

/* Four rows from row r of the panel on, half by half; returns the number of clipped weights. */
INLINE size_t update_four(const sppim_update *u, const gradients *g, size_t r, uint32_t index,
                          const sppim_update_rows *panel, const constants *c)
{
    size_t same = 0;
    uint32_t zeros = 0; /* a byte for each row */
    for (size_t h = 0; h < 2; h++) {
        __m256i v01[2], v23[2];
        same += update_pair(u, g, r, h, index, panel, c, v01, &zeros);
        same += update_pair(u, g, r + 2, h, index, panel, c, v23, &zeros);
        for (size_t i = 0; panel->quads && i < 2; i++)
            store_quads(v01[i], v23[i], panel->quads + r * SPPIM_PANEL + 32 * h + 64 * i);
    }
    __builtin_memcpy(panel->zeros + r, &zeros, sizeof zeros);
    return 4 * SPPIM_PANEL - same;
}

/* Two rows without quads. */
INLINE size_t update_two(const sppim_update *u, const gradients *g, size_t r, uint32_t index,
                         const sppim_update_rows *panel, const constants *c)
{
    size_t same = 0;
    uint32_t zeros = 0;
    for (size_t h = 0; h < 2; h++) {
        __m256i v[2];
        same += update_pair(u, g, r, h, index, panel, c, v, &zeros);
    }
    const uint16_t both = (uint16_t)(zeros >> 8 * (r % 4));
    memcpy(panel->zeros + r, &both, sizeof both);
    return 2 * SPPIM_PANEL - same;
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

FUNCTION static size_t update_s16_avx2(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows,
                                       uint32_t index, sppim_update_rows panel)
{
    if (u->round != SPPIM_SR || u->shift > 16)
        return below.update_s16(u, gradient, ld, rows, index, panel);
    const constants c = update_constants(u);
    const gradients g = {.sums = gradient, .ld = ld};
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r += 4)
        if (u->narrow || four_are_narrow(gradient + r * ld, ld, u->shift))
            clipped += update_four(u, &g, r, index, &panel, &c);
        else
            clipped += below.update_s16(u, gradient + r * ld, ld, 4, index + (uint32_t)(r * u->columns),
                                        sppim_further_rows(panel, r));
    return clipped;
}

FUNCTION static size_t update_outer_s16_avx2(const sppim_update *u, const int16_t *row, const int16_t *error,
                                             const uint16_t *pair, size_t pairs, uint32_t index, sppim_update_rows panel)
{
    if (u->round != SPPIM_SR || u->shift > 16)
        return below.update_outer_s16(u, row, error, pair, pairs, index, panel);
    const constants c = update_constants(u);
    const gradients g = {.row = row, .error = error};
    size_t clipped = 0;
    for (size_t i = 0; i < pairs; i += panel.quads ? 2 : 1) {
        const size_t r = 2 * (size_t)pair[i];
        clipped += panel.quads ? update_four(u, &g, r, index, &panel, &c) : update_two(u, &g, r, index, &panel, &c);
    }
    return clipped;
}

void sppim_kernels_install_avx2(sppim_kernels *table)
{
    below = *table;
    table->census_s8 = census_s8_avx2;
    table->census_s16 = census_s16_avx2;
    table->tally_s8 = tally_s8_avx2;
    table->transpose_s8 = transpose_s8_avx2;
    table->pack_s8 = pack_s8_avx2;
    table->product_s8 = product_s8_avx2;
    table->product_s16 = product_s16_avx2;
    table->product_sparse_s8 = product_sparse_s8_avx2;
    table->product_sparse_s16s8 = product_sparse_s16s8_avx2;
    table->product_sparse_s16 = product_sparse_s16_avx2;
    table->product_finite_s16 = product_finite_s16_avx2;
    table->requantize_relu_s32 = requantize_relu_s32_avx2;
    table->gate_s32 = gate_s32_avx2;
    table->update_s16 = update_s16_avx2;
    table->update_outer_s16 = update_outer_s16_avx2;
}

#endif
