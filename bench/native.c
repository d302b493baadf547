/* What this core can do at best, and a shift-add loop: the yardsticks and the one peer that no package offers.
 *
 * Every function returns the work it has done (MACs, bytes), 0 if this processor lacks the instructions. native.py
 * builds and loads this file. Functions carry their own target, so that no -march is needed. */
#include <stdint.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

#if defined(__x86_64__)
#include <immintrin.h>

/* Twelve independent chains hide the latency of an instruction with a throughput of up to two per cycle. */
#define TWELVE(ONE) \
    ONE("4") ONE("5") ONE("6") ONE("7") ONE("8") ONE("9") ONE("10") ONE("11") ONE("12") ONE("13") ONE("14") ONE("15")
#define CLEAR(R) "vpxor %%ymm" R ", %%ymm" R ", %%ymm" R "\n\t"
#define DPBUSD(R) "vpdpbusd %%zmm0, %%zmm1, %%zmm" R "\n\t"
#define DPWSSD(R) "vpdpwssd %%zmm0, %%zmm1, %%zmm" R "\n\t"
#define MADDWD(R) "vpmaddwd %%ymm0, %%ymm1, %%ymm2\n\tvpaddd %%ymm2, %%ymm" R ", %%ymm" R "\n\t"
#define LOOP(ONE, iterations) \
    __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\t" \
                     "vpcmpeqd %%ymm1, %%ymm1, %%ymm1\n\t" TWELVE(CLEAR) \
                     ".p2align 5\n1:\n\t" TWELVE(ONE) TWELVE(ONE) \
                     "dec %0\n\tjnz 1b\n\tvzeroupper" \
                     : "+r"(iterations) \
                     : \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

EXPORT int64_t peak_vpdpbusd(int64_t iterations)
{
    int64_t macs = iterations * 24 * 64;
    if (iterations < 1 || !__builtin_cpu_supports("avx512vnni"))
        return 0;
    LOOP(DPBUSD, iterations);
    return macs;
}

EXPORT int64_t peak_vpdpwssd(int64_t iterations)
{
    int64_t macs = iterations * 24 * 32;
    if (iterations < 1 || !__builtin_cpu_supports("avx512vnni"))
        return 0;
    LOOP(DPWSSD, iterations);
    return macs;
}

EXPORT int64_t peak_vpmaddwd(int64_t iterations)
{
    int64_t macs = iterations * 24 * 16;
    if (iterations < 1 || !__builtin_cpu_supports("avx2"))
        return 0;
    LOOP(MADDWD, iterations);
    return macs;
}

/* Reads a buffer, a multiple of 512 bytes and aligned to 64, `rounds` times into registers. */
EXPORT int64_t read_bytes(const char *buffer, int64_t bytes, int64_t rounds)
{
    if (!__builtin_cpu_supports("avx2"))
        return 0;
    int wide = __builtin_cpu_supports("avx512f");
    for (int64_t round = 0; round < rounds; round++) {
        const char *p = buffer, *end = buffer + bytes;
        if (wide)
            __asm__ volatile("1:\n\t"
                             "vmovdqa64 (%0), %%zmm0\n\tvmovdqa64 64(%0), %%zmm1\n\t"
                             "vmovdqa64 128(%0), %%zmm2\n\tvmovdqa64 192(%0), %%zmm3\n\t"
                             "vmovdqa64 256(%0), %%zmm4\n\tvmovdqa64 320(%0), %%zmm5\n\t"
                             "vmovdqa64 384(%0), %%zmm6\n\tvmovdqa64 448(%0), %%zmm7\n\t"
                             "add $512, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                             : "+r"(p)
                             : "r"(end)
                             : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
        else
            __asm__ volatile("1:\n\t"
                             "vmovdqa (%0), %%ymm0\n\tvmovdqa 32(%0), %%ymm1\n\t"
                             "vmovdqa 64(%0), %%ymm2\n\tvmovdqa 96(%0), %%ymm3\n\t"
                             "vmovdqa 128(%0), %%ymm4\n\tvmovdqa 160(%0), %%ymm5\n\t"
                             "vmovdqa 192(%0), %%ymm6\n\tvmovdqa 224(%0), %%ymm7\n\t"
                             "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                             : "+r"(p)
                             : "r"(end)
                             : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
    }
    return rounds * bytes;
}

/* Shift-add product of x[m][k] (widened to 32 bits) with PoT codes[k][n]: ROWS x 2 vectors of sums in registers, each
 * code decoded once per ROWS images. Code 7 shifts by 32, which leaves 0. */
#define SHIFT_ADD(name, isa, ROWS, vector, LANES, LOAD_CODES, SET1, AND, XOR, ADD, SUB, SLL, SRA, SLLV, SRL, STORE) \
    __attribute__((target(isa))) static void name(const int32_t *x, int64_t rows, int64_t k, const uint8_t *codes, \
                                                  int64_t n, int32_t *y) \
    { \
        const vector seven = SET1(7), one = SET1(1); \
        for (int64_t column = 0; column < n; column += 2 * LANES) { \
            vector sum[ROWS][2]; \
            for (int r = 0; r < ROWS; r++) \
                sum[r][0] = sum[r][1] = SET1(0); \
            for (int64_t i = 0; i < k; i++) { \
                vector shift[2], sign[2]; \
                for (int h = 0; h < 2; h++) { \
                    vector code = LOAD_CODES(codes + i * n + column + h * LANES); \
                    shift[h] = AND(code, seven); \
                    sign[h] = SRA(SLL(code, 28), 31); \
                    /* (shift + 1) & 8 only for 7: 7 + 4 * 8 is beyond the width */ \
                    shift[h] = ADD(shift[h], SLL(SRL(ADD(shift[h], one), 3), 5)); \
                } \
                for (int r = 0; r < ROWS; r++) { \
                    vector value = SET1(x[r * k + i]); \
                    for (int h = 0; h < 2; h++) \
                        sum[r][h] = ADD(sum[r][h], SUB(XOR(SLLV(value, shift[h]), sign[h]), sign[h])); \
                } \
            } \
            for (int r = 0; r < ROWS && r < rows; r++) \
                for (int h = 0; h < 2; h++) \
                    STORE(y + r * n + column + h * LANES, sum[r][h]); \
        } \
    }

#define CODES_512(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define CODES_256(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define STORE_512(p, v) _mm512_storeu_si512((void *)(p), v)
#define STORE_256(p, v) _mm256_storeu_si256((__m256i *)(p), v)

SHIFT_ADD(shift_add_512, "avx512f", 8, __m512i, 16, CODES_512, _mm512_set1_epi32, _mm512_and_si512, _mm512_xor_si512,
          _mm512_add_epi32, _mm512_sub_epi32, _mm512_slli_epi32, _mm512_srai_epi32, _mm512_sllv_epi32,
          _mm512_srli_epi32, STORE_512)
SHIFT_ADD(shift_add_256, "avx2", 4, __m256i, 8, CODES_256, _mm256_set1_epi32, _mm256_and_si256, _mm256_xor_si256,
          _mm256_add_epi32, _mm256_sub_epi32, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_sllv_epi32,
          _mm256_srli_epi32, STORE_256)

/* y[m][n] = x[m][k] times the codes, n a multiple of 32; x is widened to 32 bits, 8 rows at a time. */
static int64_t shift_add(const int8_t *x8, const int16_t *x16, const uint8_t *codes, int64_t m, int64_t k, int64_t n,
                         int32_t *y)
{
    int wide = __builtin_cpu_supports("avx512f");
    int64_t block = wide ? 8 : 4;
    if (!__builtin_cpu_supports("avx2") || n % 32)
        return 0;
    int32_t *rows = calloc((size_t)(block * k), sizeof *rows);
    if (!rows)
        return 0;
    for (int64_t first = 0; first < m; first += block) {
        int64_t count = m - first < block ? m - first : block;
        for (int64_t i = 0; i < count * k; i++)
            rows[i] = x8 ? x8[first * k + i] : x16[first * k + i];
        (wide ? shift_add_512 : shift_add_256)(rows, count, k, codes, n, y + first * n);
    }
    free(rows);
    return m * k * n;
}

#else /* no yardsticks here yet */

EXPORT int64_t peak_vpdpbusd(int64_t iterations) { return 0 * iterations; }
EXPORT int64_t peak_vpdpwssd(int64_t iterations) { return 0 * iterations; }
EXPORT int64_t peak_vpmaddwd(int64_t iterations) { return 0 * iterations; }
EXPORT int64_t read_bytes(const char *buffer, int64_t bytes, int64_t rounds) { return 0 * (*buffer + bytes + rounds); }
static int64_t shift_add(const int8_t *x8, const int16_t *x16, const uint8_t *codes, int64_t m, int64_t k, int64_t n,
                         int32_t *y)
{
    return 0 * (m + k + n) * (x8 || x16 || codes || y);
}

#endif

EXPORT int64_t shift_add_s8(const int8_t *x, const uint8_t *codes, int64_t m, int64_t k, int64_t n, int32_t *y)
{
    return shift_add(x, NULL, codes, m, k, n, y);
}

EXPORT int64_t shift_add_s16(const int16_t *x, const uint8_t *codes, int64_t m, int64_t k, int64_t n, int32_t *y)
{
    return shift_add(NULL, x, codes, m, k, n, y);
}
