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

/* To registers, then stored whole: compressing into memory is microcoded on some processors. */
FUNCTION static size_t compress_s8_vnni(const int8_t *x, size_t count, size_t base, int which, uint16_t *index,
                                        uint8_t *value)
{
    const __m512i steps = word_steps();
    size_t found = 0;
    for (size_t i = 0; i < count; i += 64) {
        const __mmask64 present = count - i < 64 ? ((__mmask64)1 << (count - i)) - 1 : ~(__mmask64)0;
        const __m512i v = chosen_s8(_mm512_maskz_loadu_epi8(present, x + i), which);
        const __mmask64 nonzero = _mm512_test_epi8_mask(v, v);
        const __m512i places = _mm512_add_epi16(steps, _mm512_set1_epi16((short)(base + i)));
        const size_t low = (size_t)__builtin_popcountll(nonzero & 0xFFFFFFFFu);
        _mm512_storeu_si512(value + found, _mm512_maskz_compress_epi8(nonzero, v));
        _mm512_storeu_si512(index + found, _mm512_maskz_compress_epi16((__mmask32)nonzero, places));
        _mm512_storeu_si512(index + found + low,
                            _mm512_maskz_compress_epi16((__mmask32)(nonzero >> 32),
                                                        _mm512_add_epi16(places, _mm512_set1_epi16(32))));
        found += (size_t)__builtin_popcountll(nonzero);
    }
    return found;
}

FUNCTION static size_t compress_s16_vnni(const int16_t *x, size_t count, size_t base, int which, uint16_t *index,
                                         int16_t *value)
{
    const __m512i steps = word_steps();
    size_t found = 0;
    for (size_t i = 0; i < count; i += 32) {
        const __mmask32 present = count - i < 32 ? ((__mmask32)1 << (count - i)) - 1 : ~(__mmask32)0;
        const __m512i v = chosen_s16(_mm512_maskz_loadu_epi16(present, x + i), which);
        const __mmask32 nonzero = _mm512_test_epi16_mask(v, v);
        const __m512i places = _mm512_add_epi16(steps, _mm512_set1_epi16((short)(base + i)));
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
    table->compress_s16 = compress_s16_vnni;
}

#endif
