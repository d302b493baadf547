/* What AVX2 does better: products as pairs of rows (vpmaddwd), and the update, 16 weights at a time. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include "../fixed.h"
#include "../kernels.h"

#define LANES       16                              /* weights (s16) in a register */
#define AVX2        __attribute__((target("avx2"))) /* on every function here: gcc and clang both know it */
#define AVX2_INLINE __attribute__((target("avx2"), always_inline)) static inline

/* Row i of the operands: x and the weights it meets. Without an index the rows are consecutive. */
static inline const int16_t *row_of(const uint16_t *index, size_t i, const int16_t *v, size_t stride)
{
    return v + (index ? index[i] : i) * stride;
}

/* sum[2g], sum[2g+1] += x0 row0 + x1 row1 over LANES columns of group g; the halves are interleaved by unpack. */
AVX2_INLINE void add_pair(int x0, int x1, const int16_t *row0, const int16_t *row1, int groups, __m256i *sum)
{
    const __m256i x = _mm256_set1_epi32((int)((uint32_t)(uint16_t)x0 | (uint32_t)x1 << 16));
    for (int g = 0; g < groups; g++) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(row0 + g * LANES));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(row1 + g * LANES));
        sum[2 * g] = _mm256_add_epi32(sum[2 * g], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), x));
        sum[2 * g + 1] = _mm256_add_epi32(sum[2 * g + 1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), x));
    }
}

AVX2_INLINE void add_s32_to_s64(__m128i s32, int64_t *acc)
{
    const __m256i old = _mm256_loadu_si256((const __m256i *)acc);
    _mm256_storeu_si256((__m256i *)acc, _mm256_add_epi64(old, _mm256_cvtepi32_epi64(s32)));
}

/* Adds the sums to acc, undoing the interleaving: unpack works within halves of 8 columns. */
AVX2_INLINE void flush(int groups, __m256i *sum, int64_t *acc)
{
    for (int g = 0; g < groups; g++) {
        int64_t *to = acc + g * LANES;
        add_s32_to_s64(_mm256_castsi256_si128(sum[2 * g]), to);
        add_s32_to_s64(_mm256_castsi256_si128(sum[2 * g + 1]), to + 4);
        add_s32_to_s64(_mm256_extracti128_si256(sum[2 * g], 1), to + 8);
        add_s32_to_s64(_mm256_extracti128_si256(sum[2 * g + 1], 1), to + 12);
        sum[2 * g] = sum[2 * g + 1] = _mm256_setzero_si256();
    }
}

/* groups * LANES columns; always inlined, so that groups and the presence of an index are constants. */
AVX2_INLINE void product_block(const int8_t *x, const uint16_t *index, size_t count, const int16_t *v, size_t stride,
                               int groups, size_t exact, int64_t *acc)
{
    __m256i sum[8];
    const size_t pairs = exact / 2;
    size_t i = 0, open = 0;
    for (int r = 0; r < 2 * groups; r++)
        sum[r] = _mm256_setzero_si256();
    for (; i + 2 <= count; i += 2) {
        add_pair(x[i], x[i + 1], row_of(index, i, v, stride), row_of(index, i + 1, v, stride), groups, sum);
        if (++open == pairs) {
            flush(groups, sum, acc);
            open = 0;
        }
    }
    flush(groups, sum, acc);
    if (i < count) {
        const int16_t *row = row_of(index, i, v, stride);
        add_pair(x[i], 0, row, row, groups, sum);
        flush(groups, sum, acc);
    }
}

AVX2_INLINE void product(const int8_t *x, const uint16_t *index, size_t count, const int16_t *v, size_t stride,
                         size_t columns, size_t exact, int64_t *acc)
{
    size_t j = 0;
    for (; j + 4 * LANES <= columns; j += 4 * LANES)
        product_block(x, index, count, v + j, stride, 4, exact, acc + j);
    for (; j + LANES <= columns; j += LANES)
        product_block(x, index, count, v + j, stride, 1, exact, acc + j);
    for (size_t i = 0; j < columns && i < count; i++) {
        const int16_t *row = row_of(index, i, v, stride);
        for (size_t c = j; c < columns; c++)
            acc[c] += x[i] * row[c];
    }
}

AVX2 static void product_s8_s16_avx2(const int8_t *x, size_t count, const int16_t *v, size_t stride, size_t columns,
                                     size_t exact, int64_t *acc)
{
    product(x, NULL, count, v, stride, columns, exact, acc);
}

AVX2 static void product_sparse_s8_s16_avx2(sppim_nonzeros x, const int16_t *v, size_t stride, size_t columns,
                                            size_t exact, int64_t *acc)
{
    product(x.value, x.index, x.count, v, stride, columns, exact, acc);
}

/* A3.1 */
AVX2_INLINE __m256i mix32(__m256i x)
{
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
    x = _mm256_mullo_epi32(x, _mm256_set1_epi32((int)0x85EBCA6Bu));
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 13));
    x = _mm256_mullo_epi32(x, _mm256_set1_epi32((int)0xC2B2AE35u));
    return _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
}

/* A1.2 for s <= 16 without overflow: floor((g + r)/2^s) = (g >> s) + (((g mod 2^s) + r) >> s). */
AVX2_INLINE __m256i stochastic_shift(__m256i g, __m256i u, int s)
{
    const __m256i low = _mm256_and_si256(g, _mm256_set1_epi32((1 << s) - 1));
    const __m256i r = _mm256_srli_epi32(_mm256_slli_epi32(u, s), 16);
    return _mm256_add_epi32(_mm256_srai_epi32(g, s), _mm256_srli_epi32(_mm256_add_epi32(low, r), s));
}

AVX2_INLINE __m256i clamp(__m256i x, int limit)
{
    return _mm256_max_epi32(_mm256_min_epi32(x, _mm256_set1_epi32(limit)), _mm256_set1_epi32(-limit));
}

/* Eight s32 each in a and b to sixteen s16; they fit. */
AVX2_INLINE void store_s16(__m256i a, __m256i b, int16_t *to)
{
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    _mm256_storeu_si256((__m256i *)to, packed);
}

/* A7.3 for eight weights: the new weights; adds the clipped lanes to *clipped as -1. */
AVX2_INLINE __m256i update_eight(const int16_t *w, const int32_t *gradient, __m128i u, int shift, __m256i *clipped)
{
    const __m256i g = _mm256_loadu_si256((const __m256i *)gradient);
    const __m256i old = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)w));
    const __m256i exact = _mm256_sub_epi32(old, stochastic_shift(g, _mm256_cvtepu16_epi32(u), shift));
    const __m256i next = clamp(exact, SPPIM_WEIGHT_MAX);
    const __m256i same = _mm256_cmpeq_epi32(next, exact);
    *clipped = _mm256_add_epi32(*clipped, _mm256_andnot_si256(same, _mm256_set1_epi32(-1)));
    return next;
}

/* A5.2 */
AVX2_INLINE __m256i product_weight(__m256i w, int bits)
{
    const int s = 16 - bits;
    const __m256i rounded = _mm256_srai_epi32(_mm256_add_epi32(w, _mm256_set1_epi32((1 << s) >> 1)), s);
    return clamp(rounded, (1 << (bits - 1)) - 1);
}

AVX2 static size_t count_lanes(__m256i minus_ones)
{
    int32_t lane[8];
    size_t count = 0;
    _mm256_storeu_si256((__m256i *)lane, minus_ones);
    for (int i = 0; i < 8; i++)
        count += (size_t)-lane[i];
    return count;
}

AVX2 static size_t update_sr16_avx2(const int16_t *w, const int32_t *gradient, size_t columns, uint32_t first,
                                    const sppim_update *update, int16_t *w_next, int16_t *v_next)
{
    const __m256i k0 = _mm256_set1_epi32((int)update->k0), k1 = _mm256_set1_epi32((int)update->k1);
    const __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i clipped = _mm256_setzero_si256();
    for (size_t j = 0; j < columns; j += LANES) {
        const __m256i index = _mm256_add_epi32(_mm256_set1_epi32((int)((first + (uint32_t)j) / 2)), steps);
        const __m256i u = mix32(_mm256_add_epi32(_mm256_xor_si256(index, k1), k0));
        const __m256i a = update_eight(w + j, gradient + j, _mm256_castsi256_si128(u), update->shift, &clipped);
        const __m256i b =
            update_eight(w + j + 8, gradient + j + 8, _mm256_extracti128_si256(u, 1), update->shift, &clipped);
        store_s16(a, b, w_next + j);
        store_s16(product_weight(a, update->product_bits), product_weight(b, update->product_bits), v_next + j);
    }
    return count_lanes(clipped);
}

static sppim_kernels reference; /* for what the vector code leaves over */

AVX2 static size_t update_s16_avx2(const int16_t *w, const int32_t *gradient, size_t columns, uint32_t first,
                                   const sppim_update *update, int16_t *w_next, int16_t *v_next)
{
    if (update->round != SPPIM_SR || update->shift > 16)
        return reference.update_s16(w, gradient, columns, first, update, w_next, v_next);
    const size_t head = first % 2 && columns ? 1 : 0, body = (columns - head) / LANES * LANES, tail = head + body;
    size_t clipped = reference.update_s16(w, gradient, head, first, update, w_next, v_next);
    clipped +=
        update_sr16_avx2(w + head, gradient + head, body, first + (uint32_t)head, update, w_next + head, v_next + head);
    return clipped + reference.update_s16(w + tail, gradient + tail, columns - tail, first + (uint32_t)tail, update,
                                          w_next + tail, v_next + tail);
}

void sppim_kernels_install_avx2(sppim_kernels *table)
{
    sppim_kernels_install_ref(&reference);
    table->product_s8_s16 = product_s8_s16_avx2;
    table->product_sparse_s8_s16 = product_sparse_s8_s16_avx2;
    table->update_s16 = update_s16_avx2;
}

#endif
