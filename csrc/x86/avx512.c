/* AVX-512 with byte and word instructions (F, BW, DQ, VL), without dot products. */
#include "../fixed.h"
#include "../kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define TARGET      "avx512f,avx512bw,avx512dq,avx512vl,popcnt"
#define FUNCTION    __attribute__((target(TARGET)))
#define INLINE      __attribute__((target(TARGET), always_inline)) static inline
#define BYTE_TILE_ROWS 6
#define SPARSE_GROUPS 2
#define LEVEL(name) name##_avx512

/* Bytes to words in two halves: even and odd places of each quad. */
#define DOT8(acc, u, s) ((acc) = dot8(acc, u, s))
#define DOT16(acc, w, x) ((acc) = _mm512_add_epi32(acc, _mm512_madd_epi16(w, x)))

#include <immintrin.h>

INLINE __m512i dot8(__m512i acc, __m512i u, __m512i s)
{
    const __m512i even = _mm512_madd_epi16(_mm512_and_si512(u, _mm512_set1_epi16(255)),
                                           _mm512_srai_epi16(_mm512_slli_epi16(s, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(u, 8), _mm512_srai_epi16(s, 8));
    return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
}

#include "avx512.h"

void sppim_kernels_install_avx512(sppim_kernels *table) { install_avx512(table); }

#endif
