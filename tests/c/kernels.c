/* Differential test of the kernels: every usable level against "ref", results and memory alike. kernels [SEED]
 *
 * Inputs end where an unmapped page begins and follow bytes that are not zero; outputs lie between canaries, and all of
 * their memory is compared. Prints the levels and the number of comparisons; exits with 1 at the first difference. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fixed.h"
#include "kernels.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define EACH(i, array) (size_t i = 0; i < COUNT(array); i++)

/* ---- data -------------------------------------------------------------------------------------------------------- */

static uint64_t seed, draws;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = seed + ++draws * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t limit) { return (size_t)(draw() % limit); }

#define PICK(array) ((array)[below(COUNT(array))])

/* LOWEST, HIGHEST and HALF (of the lowest, negated) are one value everywhere; NONZERO never is 0, RUNS is by turns. */
enum { RANDOM, NONZERO, EXTREME, LOWEST, HIGHEST, HALF, ZERO, SPARSE, RUNS, SMALL, CLASSES };

static int64_t edge(int64_t lowest)
{
    const int64_t edges[] = {lowest, lowest + 1, -1, 0, 1, -(lowest + 2), -(lowest + 1)};
    return PICK(edges);
}

static int64_t value(int class, int bits)
{
    const int64_t lowest = -((int64_t)1 << (bits - 1));
    const int64_t any = (int64_t)(draw() >> (64 - bits)) + lowest;
    switch (class) {
    case NONZERO: return any ? any : 1;
    case EXTREME: return edge(lowest);
    case LOWEST: return lowest;
    case HIGHEST: return -(lowest + 1);
    case HALF: return -(lowest / 2);
    case ZERO: return 0;
    case SPARSE: return below(5) ? 0 : any;
    case RUNS: return draws / 64 % 2 ? 0 : any;
    case SMALL: return any / ((int64_t)1 << bits / 2);
    default: return any;
    }
}

/* An unsigned byte. */
static uint8_t magnitude(int class)
{
    const uint8_t edges[] = {0, 1, 127, 128, 254, 255};
    return class == EXTREME ? PICK(edges) : class == HIGHEST ? 255 : (uint8_t)value(class, 8);
}

/* A value of -limit..limit. */
static int16_t bounded(int class, int limit)
{
    const int edges[] = {-limit, 1 - limit, -1, 0, 1, limit - 1, limit}, any = (int)below(2 * (size_t)limit + 1) - limit;
    const int64_t word = value(class, 16);
    if (class == RANDOM || class == NONZERO || class == EXTREME)
        return (int16_t)(class == EXTREME ? PICK(edges) : any || class == RANDOM ? any : limit);
    return (int16_t)sppim_sat(word, -limit, limit);
}

/* Of what is multiplied with operands of a class. */
static int other_class(int class)
{
    const int classes[] = {class, RANDOM, EXTREME, LOWEST, HIGHEST, HALF};
    return PICK(classes);
}

static void fill8(int8_t *to, size_t count, int class)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (int8_t)value(class, 8);
}

static void fill16(int16_t *to, size_t count, int class)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (int16_t)value(class, 16);
}

static void fill32(int32_t *to, size_t count, int class)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (int32_t)value(class, 32);
}

/* ---- inputs: they end where an unmapped page begins -------------------------------------------------------------- */

#define ARENA  ((size_t)9 << 20)
#define ARENAS 8

static unsigned char *arena_end[ARENAS];

static void make_arenas(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < ARENAS; i++) {
        unsigned char *arena = mmap(NULL, ARENA + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (arena == MAP_FAILED || mprotect(arena + ARENA, page, PROT_NONE) != 0) {
            perror("mmap");
            exit(2);
        }
        arena_end[i] = arena + ARENA;
    }
}

static void *input(int arena, size_t bytes)
{
    unsigned char *start = arena_end[arena] - bytes;
    memset(start - 128, 0x5B, 128);
    return start;
}

static int8_t *input8(int arena, size_t count, int class)
{
    int8_t *to = input(arena, count);
    fill8(to, count, class);
    return to;
}

static int16_t *input16(int arena, size_t count, int class)
{
    int16_t *to = input(arena, 2 * count);
    fill16(to, count, class);
    return to;
}

static int32_t *input32(int arena, size_t count, int class)
{
    int32_t *to = input(arena, 4 * count);
    fill32(to, count, class);
    return to;
}

/* ---- cases ------------------------------------------------------------------------------------------------------- */

#define GUARD   ((size_t)256)
#define OUTPUTS 6
#define PLACES  ((size_t)1 << 19)

static struct {
    unsigned char initial[PLACES], side[2][PLACES]; /* with guards; side 0: ref */
    size_t bytes, place;
} output[OUTPUTS];

static struct {
    const char *kernel, *names;
    long parameter[12];
    size_t parameters, outputs, level;
    uint64_t expected;
} now;

static const sppim_kernels *level[16];
static size_t levels, checks;

static void describe(void)
{
    printf("%s, level %s, seed %" PRIu64 ", %s =", now.kernel, level[now.level]->name, seed, now.names);
    for (size_t i = 0; i < now.parameters; i++)
        printf(" %ld", now.parameter[i]);
}

static void on_fault(int number)
{
    (void)number;
    describe();
    printf(": touches memory that it must not touch\n");
    fflush(stdout);
    _exit(1);
}

#define CASE(kernel, names, ...) \
    begin(kernel, names, (const long[]){__VA_ARGS__}, COUNT(((const long[]){__VA_ARGS__})))

static void begin(const char *kernel, const char *names, const long *parameter, size_t parameters)
{
    now.kernel = kernel;
    now.names = names;
    memcpy(now.parameter, parameter, parameters * sizeof *parameter);
    now.parameters = parameters;
    now.outputs = 0;
}

/* The next output of the case, before the call: where its initial values may be written. Aligned as its elements
 * must be. */
static void *add_output(size_t count, size_t size)
{
    const size_t place = GUARD + below(16) * size, bytes = place + count * size + GUARD;
    unsigned char *to = output[now.outputs].initial;
    if (now.outputs >= OUTPUTS || bytes > PLACES)
        abort();
    output[now.outputs].bytes = bytes;
    output[now.outputs++].place = place;
    for (size_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(i * 37 + 0x5A);
    return to + place;
}

/* Where level `now.level` writes it. */
static void *out(size_t i) { return output[i].side[now.level > 0] + output[i].place; }

static void reset(size_t which)
{
    now.level = which;
    for (size_t i = 0; i < now.outputs; i++)
        memcpy(output[i].side[which > 0], output[i].initial, output[i].bytes);
}

#define EACH_LEVEL (reset(0); now.level < levels; now.level + 1 < levels ? reset(now.level + 1) : (void)(now.level = levels))

static void finish(uint64_t result)
{
    if (now.level == 0) {
        now.expected = result;
        return;
    }
    checks++;
    if (result != now.expected) {
        describe();
        printf(": returns %" PRIu64 ", expected %" PRIu64 "\n", result, now.expected);
        exit(1);
    }
    for (size_t i = 0; i < now.outputs; i++) {
        const unsigned char *want = output[i].side[0], *got = output[i].side[1];
        size_t at = 0;
        if (memcmp(want, got, output[i].bytes) == 0)
            continue;
        while (want[at] == got[at])
            at++;
        describe();
        printf(": output %zu, byte %ld: %u, expected %u\n", i, (long)at - (long)output[i].place, got[at], want[at]);
        exit(1);
    }
}

/* ---- dense products ---------------------------------------------------------------------------------------------- */

static const size_t row_counts[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 64, 65};
static const size_t step_counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 72, 130, 197};
static const size_t ld_outs[] = {32, 64, 256, 45};

static size_t extent(size_t rows, size_t ld, size_t width) { return rows ? (rows - 1) * ld + width : 0; }

static size_t some_ld(size_t width)
{
    const size_t pads[] = {0, 0, 4, 60, 3};
    return below(5) ? width + PICK(pads) : 0; /* 0: rows over each other */
}

static void product_s8(size_t rows, size_t steps, int class, int flip, unsigned begins, size_t ld_out, int order)
{
    const size_t ld = some_ld(4 * steps), count = extent(rows, ld, 4 * steps);
    const int weights = other_class(class);
    CASE("product_s8", "rows steps ld class weights flip starts ld_out order", (long)rows, (long)steps, (long)ld, class,
         weights, flip, (long)begins, (long)ld_out, order);
    int8_t *x = input(0, count);
    for (size_t i = 0; i < count; i++)
        x[i] = (int8_t)(magnitude(class) ^ flip);
    const int8_t *quads = input8(1, steps * 128, weights);
    const sppim_start start = {.column = begins & 1 ? input32(2, 32, below(2) ? EXTREME : RANDOM) : NULL,
                               .scale = begins & 2 ? input32(3, rows, below(2) ? EXTREME : RANDOM) : NULL};
    add_output(extent(rows, ld_out, 32), 4);
    for EACH_LEVEL {
        level[now.level]->product_s8(x, ld, rows, steps, flip, quads, start, out(0), ld_out, order);
        finish(0);
    }
}

/* How far sums reach: 2^31 - 1 is the most that fits 32 bits. */
static int64_t reach(int64_t so_far, const int64_t *sum, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const int64_t size = sum[i] < 0 ? -1 - sum[i] : sum[i];
        so_far = size > so_far ? size : so_far;
    }
    return so_far;
}

/* Divides operands whose sums reach so far that they fit then, or nearly so; false if they did. */
static bool shrink(int16_t *x, size_t count, int64_t reached)
{
    int divisor = 1;
    while (reached / divisor > INT32_MAX)
        divisor *= 2;
    for (size_t i = 0; i < count && divisor > 1; i++)
        x[i] = (int16_t)(x[i] / divisor);
    return divisor > 1;
}

static int64_t dense_reach(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs)
{
    int64_t reached = 0;
    for (size_t r = 0; r < rows; r++) {
        int64_t sum[32] = {0};
        for (size_t k = 0; k < 2 * steps; k++)
            for (size_t lane = 0; lane < 32; lane++)
                sum[lane] += x[r * ld + k] * pairs[sppim_in_pairs(k, lane)];
        reached = reach(reached, sum, 32);
    }
    return reached;
}

static void fill_wide(int64_t *to, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = value(RANDOM, 62);
}

static void product_s16(size_t rows, size_t steps, int class, int shift, bool begins, size_t ld_out)
{
    const size_t ld = some_ld(2 * steps), count = extent(rows, ld, 2 * steps), written = extent(rows, ld_out, 32);
    const int weights = other_class(class);
    CASE("product_s16", "rows steps ld class weights shift starts ld_out", (long)rows, (long)steps, (long)ld, class, weights,
         shift, begins, (long)ld_out);
    int16_t *x = input16(0, count, class);
    const int16_t *pairs = input16(1, steps * 64, weights);
    while (shrink(x, count, dense_reach(x, ld, rows, steps, pairs)))
        continue;
    int64_t *start = begins ? input(2, 256) : NULL;
    fill_wide(start, begins ? 32 : 0);
    fill_wide(add_output(written, 8), written);
    for EACH_LEVEL {
        level[now.level]->product_s16(x, ld, rows, steps, pairs, shift, start, out(0), ld_out);
        finish(0);
    }
}

static void check_dense(void)
{
    const int flips[] = {SPPIM_UNSIGNED, SPPIM_SIGNED};
    for EACH(r, row_counts)
        for EACH(s, step_counts)
            for (int class = 0; class < CLASSES; class++) {
                if (row_counts[r] * step_counts[s] > 2000 && class != (int)((r + s) % CLASSES))
                    continue;
                product_s8(row_counts[r], step_counts[s], class, PICK(flips), (unsigned)below(4), PICK(ld_outs),
                           (int)below(2));
                product_s16(row_counts[r], step_counts[s], class, (int)below(17), below(2), PICK(ld_outs));
            }
    for (size_t rows = 1; rows < 15; rows++) {
        for (unsigned begins = 0; begins < 4; begins++)
            for EACH(f, flips)
                for (int order = 0; order < 2; order++)
                    product_s8(rows, 6, RANDOM, flips[f], begins, 64, order);
        for (int shift = 0; shift <= 16; shift++)
            for (int begins = 0; begins < 2; begins++)
                product_s16(rows, 6, RANDOM, shift, begins, 64);
    }
}

/* ---- products that skip zeros ------------------------------------------------------------------------------------ */

#define LARGEST_DEPTH ((size_t)65536)

static const size_t nonzero_counts[] = {0, 4, 8, 12, 16, 20, 60, 260};

/* Rows below depth; returns how many at the end stand for padding. */
static size_t some_rows(uint16_t *index, size_t count, size_t depth, bool ascending)
{
    const size_t padding = count ? below(4) : 0;
    for (size_t i = 0; i < count; i++)
        index[i] = (uint16_t)(ascending ? (i * depth + below(depth)) / count : below(depth));
    for (size_t i = count - padding; i < count; i++)
        index[i] = (uint16_t)(below(2) ? index[count - padding - 1] : 0);
    return padding;
}

static sppim_nonzeros words_list(size_t count, size_t depth, int class, bool ascending)
{
    uint16_t *index = input(0, 2 * count);
    int16_t *words = input16(1, count, class);
    const size_t padding = some_rows(index, count, depth, ascending);
    memset(words + count - padding, 0, 2 * padding);
    return (sppim_nonzeros){.index = index, .value16 = words, .count = count};
}

/* Magnitudes of bytes or of words, first those that count as negative. */
static sppim_nonzeros bytes_list(size_t count, size_t negatives, size_t depth, int class, bool words)
{
    uint16_t *index = input(0, 2 * count);
    uint8_t *low = input(1, count), *high = words ? input(2, count) : NULL;
    const size_t padded[] = {negatives - some_rows(index, negatives, depth, below(2)),
                             count - some_rows(index + negatives, count - negatives, depth, below(2))};
    for (size_t i = 0; i < count; i++) {
        const bool padding = i >= padded[i >= negatives];
        const int word = padding ? 0 : words ? abs((int)value(class, 16)) : magnitude(class);
        low[i] = (uint8_t)word;
        if (words)
            high[i] = (uint8_t)(word >> 8);
    }
    return (sppim_nonzeros){.index = index, .value = low, .high = high, .negatives = negatives, .count = count};
}

static size_t some_stride(size_t depth)
{
    const size_t pads[] = {0, 0, 64, 1};
    return depth * 64 + PICK(pads);
}

/* All, none, or some of them negative. */
static size_t some_negatives(size_t count) { return below(3) ? 4 * below(count / 4 + 1) : below(2) ? count : 0; }

static void product_sparse_s8(size_t count, size_t depth, size_t groups, int class, int weights, unsigned begins, int order)
{
    const size_t stride = some_stride(depth), negatives = some_negatives(count);
    CASE("product_sparse_s8", "count negatives depth groups stride class weights starts order", (long)count, (long)negatives,
         (long)depth, (long)groups, (long)stride, class, weights, (long)begins, order);
    const sppim_nonzeros x = bytes_list(count, negatives, depth, class, false);
    const int8_t *rows = input8(4, (groups - 1) * stride + depth * 64, weights);
    const sppim_start start = {.column = begins & 1 ? input32(5, groups * 64, below(2) ? EXTREME : RANDOM) : NULL,
                               .scale = begins & 2 ? input32(6, 1, below(2) ? EXTREME : RANDOM) : NULL};
    add_output(groups * 64, 4);
    for EACH_LEVEL {
        level[now.level]->product_sparse_s8(x, rows, stride, groups, start, out(0), order);
        finish(0);
    }
}

static void product_sparse_s16s8(size_t count, size_t depth, size_t groups, int class, int weights)
{
    const size_t stride = some_stride(depth), negatives = some_negatives(count);
    CASE("product_sparse_s16s8", "count negatives depth groups stride class weights", (long)count, (long)negatives,
         (long)depth, (long)groups, (long)stride, class, weights);
    const sppim_nonzeros x = bytes_list(count, negatives, depth, class, true);
    const int8_t *rows = input8(4, (groups - 1) * stride + depth * 64, weights);
    add_output(groups * 64, 8);
    for EACH_LEVEL {
        level[now.level]->product_sparse_s16s8(x, rows, stride, groups, out(0));
        finish(0);
    }
}

static int64_t sparse_reach(sppim_nonzeros x, const int16_t *words, size_t stride, size_t groups)
{
    int64_t reached = 0;
    for (size_t g = 0; g < groups; g++) {
        int64_t sum[64] = {0};
        for (size_t i = 0; i < x.count; i++)
            for (size_t c = 0; c < 64; c++)
                sum[c] += x.value16[i] * words[g * stride + sppim_in_rows(x.index[i], c)];
        reached = reach(reached, sum, 64);
    }
    return reached;
}

static void product_sparse_s16(size_t count, size_t depth, size_t groups, int class, int weights)
{
    const size_t stride = some_stride(depth);
    const bool started = below(2);
    CASE("product_sparse_s16", "count depth groups stride class weights started", (long)count, (long)depth, (long)groups,
         (long)stride, class, weights, started);
    const sppim_nonzeros x = words_list(count, depth, class, below(2));
    const int16_t *words = input16(4, (groups - 1) * stride + depth * 64, weights);
    while (shrink((int16_t *)(uintptr_t)x.value16, count, sparse_reach(x, words, stride, groups)))
        continue;
    fill_wide(add_output(groups * 64, 8), groups * 64);
    int64_t *start = input(5, groups * 64 * sizeof *start);
    fill_wide(start, groups * 64);
    for EACH_LEVEL {
        level[now.level]->product_sparse_s16(x, words, stride, groups, started ? start : NULL, out(0));
        finish(0);
    }
}

static void product_finite_s16(size_t count, int bits, int overflow, int class)
{
    const size_t depth = 64;
    CASE("product_finite_s16", "count bits overflow class", (long)count, bits, overflow, class);
    const sppim_nonzeros x = words_list(count, depth, class, true);
    const int16_t *pairs = input16(4, depth * 32, below(2) ? class : SMALL);
    int32_t *acc = add_output(32, 4);
    for (size_t i = 0; i < 32; i++)
        acc[i] = (int32_t)value(below(2) ? EXTREME : RANDOM, bits);
    for EACH_LEVEL {
        const uint64_t changed =
            level[now.level]->product_finite_s16(x, pairs, (sppim_accumulator){bits, overflow}, out(0));
        finish(changed);
    }
}

static void every_sparse(size_t count, size_t depth, size_t groups, int class, int weights)
{
    product_sparse_s8(count, depth, groups, class, weights, (unsigned)below(4), (int)below(2));
    product_sparse_s16s8(count, depth, groups, class, weights);
    product_sparse_s16(count, depth, groups, class, weights);
}

static void check_sparse(void)
{
    const int constants[] = {LOWEST, HIGHEST};
    for EACH(c, nonzero_counts)
        for (int class = 0; class < CLASSES; class++) {
            const size_t count = nonzero_counts[c], repeats = count > 100 ? 1 : 2;
            for (size_t groups = 1; groups <= 9; groups++)
                for (size_t repeat = 0; repeat < repeats; repeat++)
                    every_sparse(count, 4 * (1 + below(12)), groups, class, other_class(class));
            for (int bits = 8; bits <= 32; bits++)
                for (int overflow = 0; overflow < SPPIM_OVERFLOW_COUNT; overflow++)
                    product_finite_s16(count, bits, overflow, class);
        }
    for (size_t groups = 1; groups <= 9; groups++)
        for (unsigned begins = 0; begins < 4; begins++)
            for (int order = 0; order < 2; order++)
                product_sparse_s8(8, 12, groups, RANDOM, RANDOM, begins, order);
    for EACH(a, constants) /* sums of words and bytes that need more than 32 bits */
        for EACH(b, constants)
            for (size_t groups = 1; groups <= 5; groups++)
                every_sparse(1040, 8, groups, constants[a], constants[b]);
    for (size_t groups = 1; groups <= 4; groups++)
        product_sparse_s16s8(1040, 8, groups, EXTREME, LOWEST);
    every_sparse(60, LARGEST_DEPTH, 1, NONZERO, RANDOM);
}

/* ---- activations and errors -------------------------------------------------------------------------------------- */

/* Sums near those where a shifted value rounds up or saturates. */
static int64_t near_edge(int shift, int bits, int limit)
{
    if (below(4) == 0)
        return value((int)below(CLASSES), bits);
    const int64_t whole = (int64_t)below(2 * (size_t)limit + 9) - limit - 4, half = shift ? (int64_t)1 << (shift - 1) : 0;
    const int64_t room = ((int64_t)((uint64_t)1 << (bits - 1)) - 1) >> shift; /* of whole numbers */
    if (whole >= room || whole <= -room)
        return value(RANDOM, bits);
    return (int64_t)((uint64_t)whole << shift) + (below(2) ? half : 0) + (int64_t)below(3) - 1;
}

static int32_t *sums_near_edges(int shift, int limit)
{
    int32_t *acc = input(0, 128);
    for (size_t i = 0; i < 32; i++)
        acc[i] = (int32_t)near_edge(shift, 32, limit);
    return acc;
}

static void requantize_s32(int shift, int hi)
{
    CASE("requantize_relu_s32", "shift hi", shift, hi);
    const int32_t *acc = sums_near_edges(shift, hi);
    add_output(32, 1);
    for EACH_LEVEL
        finish(level[now.level]->requantize_relu_s32(acc, shift, hi, out(0)));
}

static void requantize_s64(int shift, int round, int hi)
{
    CASE("requantize_relu_s64", "shift round hi", shift, round, hi);
    int64_t *acc = input(0, 256);
    for (size_t i = 0; i < 32; i++)
        acc[i] = near_edge(shift, 63, hi);
    add_output(32, 1);
    for EACH_LEVEL
        finish(level[now.level]->requantize_relu_s64(acc, shift, round, hi, out(0)));
}

static void gate_s32(int shift, int class)
{
    CASE("gate_s32", "shift class", shift, class);
    const int32_t *acc = sums_near_edges(shift, SPPIM_ERROR_MAX);
    const int8_t *y = input8(1, 32, class);
    add_output(32, 1);
    for EACH_LEVEL
        finish(level[now.level]->gate_s32(acc, y, shift, out(0)));
}

static void check_activations(void)
{
    const int tops[] = {1, 3, 15, 100, 127};
    for (int repeat = 0; repeat < 8; repeat++) {
        for EACH(t, tops) {
            for (int shift = 0; shift <= 31; shift++)
                requantize_s32(shift, tops[t]);
            for (int shift = 0; shift <= 62; shift++)
                for (int round = 0; round < SPPIM_SR; round++)
                    requantize_s64(shift, round, tops[t]);
        }
        for (int shift = 0; shift <= 31; shift++)
            for (int class = 0; class < CLASSES; class++)
                gate_s32(shift, class);
    }
}

/* ---- facts about inputs, and their other orders ------------------------------------------------------------------ */

/* What the 64 places after the last contain is free. */
static void forget_rest(size_t i, size_t size, size_t found)
{
    memcpy((char *)out(i) + found * size, output[i].initial + output[i].place + found * size, 64 * size);
}

static void compress_s8(size_t count, int which, int class)
{
    CASE("compress_s8", "count which class", (long)count, which, class);
    const int8_t *x = input8(0, count, class);
    add_output(count + 64, 2);
    add_output(count + 64, 1);
    for EACH_LEVEL {
        const size_t found = level[now.level]->compress_s8(x, count, which, out(0), out(1));
        for (size_t i = 0; found <= count && i < 2; i++)
            forget_rest(i, 2 - i, found);
        finish(found);
    }
}

static void compress_s16s8(size_t count, int which, int class)
{
    CASE("compress_s16s8", "count which class", (long)count, which, class);
    const int16_t *x = input16(0, count, class);
    add_output(count + 64, 2);
    add_output(count + 64, 1);
    add_output(count + 64, 1);
    for EACH_LEVEL {
        const size_t found = level[now.level]->compress_s16s8(x, count, which, out(0), out(1), out(2));
        for (size_t i = 0; found <= count && i < 3; i++)
            forget_rest(i, i ? 1 : 2, found);
        finish(found);
    }
}

static void compress_s16(size_t count, int class)
{
    CASE("compress_s16", "count class", (long)count, class);
    const int16_t *x = input16(0, count, class);
    add_output(count + 64, 2);
    add_output(count + 64, 2);
    for EACH_LEVEL {
        const size_t found = level[now.level]->compress_s16(x, count, out(0), out(1));
        for (size_t i = 0; found <= count && i < 2; i++)
            forget_rest(i, 2, found);
        finish(found);
    }
}

/* Where a single value stands apart from the rest, which is zero or its class; nowhere in an empty array. */
static size_t lone_place(size_t count, bool lone) { return lone && count ? below(count) : count; }

static void census_s8(size_t count, int class, bool lone)
{
    const size_t place = lone_place(count, lone);
    CASE("census_s8", "count class lone", (long)count, class, (long)place);
    int8_t *x = input8(0, count, class);
    if (place < count)
        x[place] = (int8_t)value(NONZERO, 8);
    uint8_t *bits = add_output(1, 1);
    *bits = magnitude(below(2) ? ZERO : SPARSE);
    for EACH_LEVEL
        finish(level[now.level]->census_s8(x, count, out(0)));
}

static void census_s16(size_t count, int class, int extremes, bool lone)
{
    const size_t place = lone_place(count, lone);
    CASE("census_s16", "count class extremes lone", (long)count, class, extremes, (long)place);
    int16_t *x = input16(0, count, class);
    if (place < count)
        x[place] = (int16_t)value(EXTREME, 16);
    const int64_t a = value(extremes, 16), b = value(extremes, 16);
    *(int16_t *)add_output(1, 2) = (int16_t)(a < b ? a : b);
    *(int16_t *)add_output(1, 2) = (int16_t)(a < b ? b : a);
    for EACH_LEVEL
        finish(level[now.level]->census_s16(x, count, out(0), out(1)));
}

static void tally_s8(size_t rows, size_t columns, size_t pad, int class)
{
    const size_t ld = columns + pad;
    CASE("tally_s8", "rows columns ld class", (long)rows, (long)columns, (long)ld, class);
    const int8_t *x = input8(0, extent(rows, ld, columns), class);
    fill32(add_output(columns, 4), columns, SMALL);
    fill32(add_output(columns, 4), columns, RANDOM);
    for EACH_LEVEL {
        level[now.level]->tally_s8(x, rows, ld, columns, out(0), out(1));
        finish(0);
    }
}

/* Which of `stored` rows, ascending; the last one is among them. */
static const uint16_t *chosen_rows(size_t rows, size_t stored)
{
    uint16_t *row = input(1, 2 * rows);
    for (size_t i = 0; i < rows; i++)
        row[i] = (uint16_t)((i + 1) * stored / rows - 1);
    return row;
}

static void transpose_s8(size_t rows, size_t columns, size_t pad)
{
    const size_t pads[] = {0, 16, 32, 3}, padded = sppim_round_up(rows, 16);
    const size_t stored = rows + below(rows + 1), ld = columns + pad, ld_out = padded + PICK(pads);
    CASE("transpose_s8", "rows columns ld ld_out", (long)rows, (long)columns, (long)ld, (long)ld_out);
    const int8_t *x = input8(0, extent(stored, ld, columns), RANDOM);
    const uint16_t *row = chosen_rows(rows, stored);
    add_output(extent(columns, ld_out, padded), 1);
    for EACH_LEVEL {
        level[now.level]->transpose_s8(x, row, rows, ld, columns, out(0), ld_out);
        finish(0);
    }
}

static void pack_s8(size_t rows, size_t pad, unsigned wanted)
{
    const size_t pads[] = {0, 64, 128, 5};
    const size_t stored = rows + below(rows + 1), ld = 64 + pad, depth = sppim_round_up(rows, 4);
    const size_t stride = depth * 32 + PICK(pads);
    CASE("pack_s8", "rows ld stride wanted", (long)rows, (long)ld, (long)stride, (long)wanted);
    const int8_t *x = input8(0, extent(stored, ld, 64), RANDOM);
    const uint16_t *row = chosen_rows(rows, stored);
    add_output(stride + depth * 32, 1);
    add_output(depth * 64, 1);
    for EACH_LEVEL {
        level[now.level]->pack_s8(x, row, rows, ld, wanted & 1 ? out(0) : NULL, stride, wanted & 2 ? out(1) : NULL);
        finish(0);
    }
}

static void check_lists(void)
{
    const size_t lengths[] = {0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 127, 128, 129, 200, 1000, 5000};
    const int extremes[] = {ZERO, SMALL, EXTREME, RANDOM};
    for EACH(n, lengths)
        for (int class = 0; class < CLASSES; class++) {
            for (int which = SPPIM_ALL; which <= SPPIM_POSITIVE; which++) {
                compress_s8(lengths[n], which, class);
                compress_s16s8(lengths[n], which, class);
            }
            compress_s16(lengths[n], class);
            census_s8(lengths[n], class, false);
            for EACH(e, extremes)
                census_s16(lengths[n], class, extremes[e], false);
        }
    for EACH(n, lengths)
        for (int repeat = 0; repeat < 16; repeat++) {
            census_s8(lengths[n], ZERO, true);
            census_s16(lengths[n], repeat % 2 ? ZERO : SMALL, ZERO, true);
        }
    census_s8((size_t)2200 << 10, NONZERO, false);        /* beyond 16-bit counters of 32 lanes, */
    census_s16((size_t)1100 << 10, NONZERO, ZERO, false); /* of 16 */
}

static void check_inputs(void)
{
    const size_t tallied[] = {0, 1, 2, 3, 64, 127, 128, 129, 254, 255}, pads[] = {0, 64, 7};
    for EACH(r, tallied)
        for (size_t columns = 0; columns <= 256; columns += 64)
            for (int class = 0; class < CLASSES; class++)
                tally_s8(tallied[r], columns, PICK(pads), class);
    for (size_t rows = 0; rows <= 70; rows++)
        for EACH(p, pads) {
            for (unsigned wanted = 0; wanted < 4; wanted++)
                pack_s8(rows, pads[p], wanted);
            for (size_t columns = 0; columns <= 192; columns += 64)
                transpose_s8(rows, columns, pads[p]);
        }
}

/* ---- update ------------------------------------------------------------------------------------------------------ */

static int32_t gradient_value(int shift, bool narrow)
{
    const int s = shift < 16 ? shift : 16;
    const int64_t limit = narrow ? (int64_t)INT16_MAX << s : (int64_t)1 << 31; /* of |gradient|, exclusive */
    int64_t g;
    switch (below(6)) {
    case 0: g = (int64_t)below(3) - 1; break;
    case 1: g = limit - 1 - (int64_t)below(3); break;
    case 2: g = -limit + 1 + (int64_t)below(3) - (narrow ? 0 : 1); break;
    case 3: g = ((int64_t)(INT16_MAX - 2 + (int)below(4)) << s) + (int64_t)below(3) - 1; break; /* where narrow ends */
    default: g = value(RANDOM, 32) >> below(32);
    }
    g = below(2) ? g : -g;
    return (int32_t)sppim_sat(g, narrow ? -limit + 1 : INT32_MIN, limit - 1);
}

static const int16_t *some_weights(size_t count)
{
    const int classes[] = {RANDOM, RANDOM, SMALL, SPARSE, ZERO}, class = PICK(classes);
    int16_t *w = input(0, 2 * count);
    for (size_t i = 0; i < count; i++)
        w[i] = (int16_t)(below(4) ? sppim_sat(value(class, 16), -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX)
                         : class != RANDOM ? 0
                         : below(2) ? SPPIM_WEIGHT_MAX - (int)below(3)
                                    : -SPPIM_WEIGHT_MAX + (int)below(3));
    return w;
}

/* Narrow gradients, wide ones, or both mixed by blocks of rows; small ones, so that product weights stay near w. */
static const int32_t *some_gradient(size_t rows, size_t ld, int shift, int kind)
{
    int32_t *g = input32(1, extent(rows, ld, 32), EXTREME);
    bool narrow = true;
    for (size_t r = 0; r < rows; r++) {
        if (r % 4 == 0)
            narrow = kind == 0 || (kind == 2 && below(2));
        for (size_t lane = 0; lane < 32; lane++)
            g[r * ld + lane] = kind == 3 ? (int32_t)below(512) - 256 : gradient_value(shift, narrow);
    }
    if (kind == 2 && rows) /* one wide value in an otherwise narrow block */
        g[below(rows) * ld + below(32)] = INT32_MIN + (int32_t)below(2);
    return g;
}

/* What an update writes, and where to. */
typedef struct target {
    const int16_t *w;
    enum { QUADS = 1, ROWS = 2, PAIRS = 4, WORDS = 8 } wanted;
    bool in_place;
    size_t half; /* of a group */
} target;

static target some_target(int product_bits)
{
    return (target){.wanted = (unsigned)below(16) & (product_bits <= 8 ? 15u : PAIRS | WORDS), .in_place = below(2),
                    .half = below(2)};
}

static sppim_update_rows panel_of(const target *t)
{
    return (sppim_update_rows){.w = t->in_place ? out(0) : t->w, .w_next = out(0), .zeros = out(1),
                               .quads = t->wanted & QUADS ? out(2) : NULL,
                               .rows = t->wanted & ROWS ? (int8_t *)out(3) + t->half * 32 : NULL,
                               .pairs = t->wanted & PAIRS ? out(4) : NULL,
                               .words = t->wanted & WORDS ? (int16_t *)out(5) + t->half * 32 : NULL};
}

static void add_target(target *t, size_t rows)
{
    const size_t count = rows * 32, widths[] = {2, 1, 1, 1, 2, 2};
    const size_t counts[] = {count, rows, count, 2 * count + 32, count, 2 * count + 32};
    t->w = some_weights(count);
    for EACH(i, counts)
        add_output(counts[i], widths[i]);
    if (t->in_place)
        memcpy(output[0].initial + output[0].place, t->w, 2 * count);
}

static sppim_update some_update(int shift, int round, int product_bits, bool narrow)
{
    return (sppim_update){.shift = shift, .round = round, .k0 = (uint32_t)draw(), .k1 = (uint32_t)draw(),
                          .product_bits = product_bits, .columns = below(3) ? 1 + below(2000) : below(1 << 20),
                          .narrow = narrow};
}

static uint32_t some_index(void) { return (uint32_t)(below(2) ? below(4096) : below((size_t)1 << 31)); }

static void update_s16(size_t rows, size_t ld, int shift, int round, int product_bits, int kind)
{
    target t = some_target(product_bits);
    const sppim_update u = some_update(shift, round, product_bits, kind == 0 && below(2));
    const uint32_t index = some_index();
    CASE("update_s16", "rows ld shift round bits kind narrow index columns wanted in_place", (long)rows, (long)ld, shift,
         round, product_bits, kind, u.narrow, (long)index, (long)u.columns, (long)t.wanted, t.in_place);
    add_target(&t, rows);
    const int32_t *gradient = some_gradient(rows, ld, shift, kind);
    for EACH_LEVEL
        finish(level[now.level]->update_s16(&u, gradient, ld, rows, index, panel_of(&t)));
}

/* All, some or none of the pairs of rows, by twos or not; returns how many. */
static size_t some_pairs(size_t rows, bool by_twos, uint16_t *pair)
{
    const size_t chance = below(4), together = by_twos ? 2 : 1;
    size_t pairs = 0;
    for (size_t i = 0; i < rows / 2; i += together)
        for (size_t k = 0, taken = chance && below(chance) == 0; taken && k < together; k++)
            pair[pairs++] = (uint16_t)(i + k);
    return pairs;
}

static int magnitude_of(const int16_t *x, size_t count)
{
    int most = 0;
    for (size_t i = 0; i < count; i++)
        most = abs(x[i]) > most ? abs(x[i]) : most;
    return most;
}

static void update_outer_s16(size_t rows, int shift, int round, int product_bits, int most, int row_class, int error_class)
{
    target t = some_target(product_bits);
    sppim_update u = some_update(shift, round, product_bits, false);
    const uint32_t index = some_index();
    int16_t *row = input(1, 2 * rows), *error = input(2, 64);
    for (size_t r = 0; r < rows; r++)
        row[r] = bounded(row_class, most);
    for (size_t lane = 0; lane < 32; lane++)
        error[lane] = bounded(error_class, SPPIM_ERROR_MAX);
    uint16_t some[64];
    const size_t pairs = some_pairs(rows, t.wanted & QUADS, some);
    const uint16_t *pair = memcpy(input(3, sizeof *some * pairs), some, sizeof *some * pairs);
    u.narrow = shift < 15 && magnitude_of(row, rows) * magnitude_of(error, 32) + (1 << shift) <= INT16_MAX && below(4);
    CASE("update_outer_s16", "rows pairs shift round bits most narrow index columns wanted in_place", (long)rows,
         (long)pairs, shift, round, product_bits, most, u.narrow, (long)index, (long)u.columns, (long)t.wanted, t.in_place);
    add_target(&t, rows);
    for EACH_LEVEL
        finish(level[now.level]->update_outer_s16(&u, row, error, pair, pairs, index, panel_of(&t)));
}

static void check_update(void)
{
    const size_t row_groups[] = {0, 4, 8, 12, 16, 20, 64}, lds[] = {32, 256, 35};
    const int mosts[] = {255, 127, 128, 20};
    for (int shift = 0; shift <= 16; shift++)
        for (int product_bits = 2; product_bits <= 16; product_bits++)
            for (int kind = 0; kind < 4; kind++)
                for (int repeat = 0; repeat < 3; repeat++) {
                    update_s16(PICK(row_groups), PICK(lds), shift, SPPIM_SR, product_bits, kind);
                    update_outer_s16(PICK(row_groups), shift, SPPIM_SR, product_bits, PICK(mosts), (int)below(CLASSES),
                                     (int)below(CLASSES));
                }
    for (int shift = 0; shift <= 46; shift++)
        for (int round = 0; round < SPPIM_ROUNDING_COUNT; round++)
            for (int kind = 0; kind < 4; kind++) {
                const int product_bits = 2 + (int)below(15);
                update_s16(8, 32, shift, round, product_bits, kind);
                update_outer_s16(8, shift, round, product_bits, PICK(mosts), (int)below(CLASSES), (int)below(CLASSES));
            }
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    make_arenas();
    levels = sppim_isa_count();
    printf("levels");
    for (size_t i = 0; i < levels; i++) {
        level[i] = sppim_kernels_find(sppim_isa_name(i));
        printf(" %s", level[i]->name);
    }
    printf("\n");
    check_dense();
    check_sparse();
    check_activations();
    check_lists();
    check_inputs();
    check_update();
    printf("checks %zu\n", checks);
    return 0;
}
