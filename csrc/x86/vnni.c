/* AVX-512 with dot products (VNNI) and byte compression (VBMI2). */
#include "../fixed.h"
#include "../kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define TARGET      "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt"
#define FUNCTION    __attribute__((target(TARGET)))
#define INLINE      __attribute__((target(TARGET), always_inline)) static inline
#define BYTE_TILE_ROWS 12
#define SPARSE_GROUPS 4
#define LEVEL(name) name##_vnni

/* One instruction each; written as such because gcc 12 spills the accumulators of unrolled intrinsics. */
#define DOT8(acc, u, s) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s))
#define DOT16(acc, w, x) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))

#include "avx512.h"

/* 0 .. 31 */
INLINE __m512i word_steps(void)
{
    return _mm512_cvtepu8_epi16(_mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
                                                 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31));
}

/* The values that are to be listed, zero elsewhere. */
INLINE __m512i chosen_s8(__m512i v, int which)
{
    const __m512i zero = _mm512_setzero_si512();
    return which == SPPIM_ALL        ? v
           : which == SPPIM_NEGATIVE ? _mm512_sub_epi8(zero, _mm512_min_epi8(v, zero))
                                     : _mm512_max_epi8(v, zero);
}

INLINE __m512i chosen_s16(__m512i v, int which)
{
    const __m512i zero = _mm512_setzero_si512();
    return which == SPPIM_ALL        ? v
           : which == SPPIM_NEGATIVE ? _mm512_sub_epi16(zero, _mm512_min_epi16(v, zero))
                                     : _mm512_max_epi16(v, zero);
}

INLINE __m512i load_words(const int16_t *x, size_t count)
{
    return _mm512_maskz_loadu_epi16(count < 32 ? ((__mmask32)1 << count) - 1 : ~(__mmask32)0, x);
}

/* Lists are made in registers, then stored whole: compressing into memory is microcoded on some processors. */
FUNCTION static size_t compress_s8_vnni(const int8_t *x, size_t count, int which, uint16_t *index, uint8_t *value)
{
    const __m512i half = _mm512_set1_epi16(32), all = _mm512_set1_epi16(64);
    __m512i places = word_steps();
    size_t found = 0;
    for (size_t i = 0; i < count; i += 64, places = _mm512_add_epi16(places, all)) {
        const __mmask64 present = count - i < 64 ? ((__mmask64)1 << (count - i)) - 1 : ~(__mmask64)0;
        const __m512i v = chosen_s8(_mm512_maskz_loadu_epi8(present, x + i), which);
        const __mmask64 nonzero = _mm512_test_epi8_mask(v, v);
        const __mmask32 first = (__mmask32)nonzero, second = (__mmask32)(nonzero >> 32);
        const size_t middle = found + (size_t)__builtin_popcount(first);
        _mm512_storeu_si512(value + found, _mm512_maskz_compress_epi8(nonzero, v));
        _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi16(first, places));
        _mm512_storeu_si512(index + middle, _mm512_maskz_compress_epi16(second, _mm512_add_epi16(places, half)));
        found = middle + (size_t)__builtin_popcount(second);
    }
    return found;
}

FUNCTION static size_t compress_s16s8_vnni(const int16_t *x, size_t count, int which, uint16_t *index, uint8_t *value,
                                           uint8_t *high)
{
    const __m512i step = _mm512_set1_epi16(32);
    __m512i places = word_steps();
    size_t found = 0;
    for (size_t i = 0; i < count; i += 32, places = _mm512_add_epi16(places, step)) {
        const __m512i v = chosen_s16(load_words(x + i, count - i), which);
        const __mmask32 nonzero = _mm512_test_epi16_mask(v, v);
        const __m512i words = _mm512_maskz_compress_epi16(nonzero, v);
        _mm256_storeu_si256((__m256i *)(value + found), _mm512_cvtepi16_epi8(words));
        _mm256_storeu_si256((__m256i *)(high + found), _mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 8)));
        _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi16(nonzero, places));
        found += (size_t)__builtin_popcount(nonzero);
    }
    return found;
}

FUNCTION static size_t compress_s16_vnni(const int16_t *x, size_t count, uint16_t *index, int16_t *value)
{
    const __m512i step = _mm512_set1_epi16(32);
    __m512i places = word_steps();
    size_t found = 0;
    for (size_t i = 0; i < count; i += 32, places = _mm512_add_epi16(places, step)) {
        const __m512i v = load_words(x + i, count - i);
        const __mmask32 nonzero = _mm512_test_epi16_mask(v, v);
        _mm512_storeu_si512(value + found, _mm512_maskz_compress_epi16(nonzero, v));
        _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi16(nonzero, places));
        found += (size_t)__builtin_popcount(nonzero);
    }
    return found;
}

void sppim_kernels_install_vnni(sppim_kernels *table)
{
    install_vnni(table);
    table->compress_s8 = compress_s8_vnni;
    table->compress_s16s8 = compress_s16s8_vnni;
    table->compress_s16 = compress_s16_vnni;
}

#endif
