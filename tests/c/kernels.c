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

enum { RANDOM, EXTREME, LOWEST, ZERO, SPARSE, SMALL, CLASSES };

static int64_t value(int class, int bits)
{
    const int64_t lowest = -((int64_t)1 << (bits - 1));
    const int64_t edges[] = {lowest, lowest + 1, -1, 0, 1, -(lowest + 2), -(lowest + 1)};
    const int64_t any = (int64_t)(draw() >> (64 - bits)) + lowest;
    switch (class) {
    case EXTREME: return PICK(edges);
    case LOWEST: return lowest;
    case ZERO: return 0;
    case SPARSE: return below(5) ? 0 : any;
    case SMALL: return any / ((int64_t)1 << bits / 2);
    default: return any;
    }
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

#define ARENA  ((size_t)5 << 20)
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
    size_t bytes;
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

/* The next output of the case, before the call: where its initial values may be written. */
static void *add_output(size_t bytes)
{
    unsigned char *to = output[now.outputs].initial;
    if (now.outputs >= OUTPUTS || bytes + 2 * GUARD > PLACES)
        abort();
    output[now.outputs++].bytes = bytes + 2 * GUARD;
    for (size_t i = 0; i < bytes + 2 * GUARD; i++)
        to[i] = (unsigned char)(i * 37 + 0x5A);
    return to + GUARD;
}

/* Where level `now.level` writes it. */
static void *out(size_t i) { return output[i].side[now.level > 0] + GUARD; }

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
        printf(": output %zu, byte %ld: %u, expected %u\n", i, (long)at - (long)GUARD, got[at], want[at]);
        exit(1);
    }
}

/* ---- dense products ---------------------------------------------------------------------------------------------- */

static const size_t row_counts[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 64, 65};
static const size_t step_counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 72, 130, 197};
static const size_t ld_outs[] = {32, 64, 256};

static size_t extent(size_t rows, size_t ld, size_t width) { return rows ? (rows - 1) * ld + width : 0; }

static void product_s8(size_t rows, size_t steps, size_t pad, int class, unsigned begins, size_t ld_out, int order)
{
    const size_t ld = pad == 1 ? 0 : 4 * steps + pad; /* a pad of 1: rows over each other */
    CASE("product_s8", "rows steps ld class starts ld_out order", (long)rows, (long)steps, (long)ld, class, (long)begins,
         (long)ld_out, order);
    const int8_t *x = input8(0, extent(rows, ld, 4 * steps), class);
    const uint8_t *quads = (const uint8_t *)input8(1, steps * 128, below(2) ? class : RANDOM);
    const sppim_start start = {.column = begins & 1 ? input32(2, 32, below(2) ? EXTREME : RANDOM) : NULL,
                               .scale = begins & 2 ? input32(3, rows, RANDOM) : NULL,
                               .shift = begins & 4 ? input32(4, rows, RANDOM) : NULL};
    add_output(4 * extent(rows, ld_out, 32));
    for EACH_LEVEL {
        level[now.level]->product_s8(x, ld, rows, steps, quads, start, out(0), ld_out, order);
        finish(0);
    }
}

static void product_s16(size_t rows, size_t steps, size_t pad, int class, size_t ld_out, int order)
{
    const size_t ld = pad == 1 ? 0 : 2 * steps + pad;
    CASE("product_s16", "rows steps ld class ld_out order", (long)rows, (long)steps, (long)ld, class, (long)ld_out, order);
    const int16_t *x = input16(0, extent(rows, ld, 2 * steps), class);
    const int16_t *pairs = input16(1, steps * 64, below(3) ? class : RANDOM);
    add_output(4 * extent(rows, ld_out, 32));
    for EACH_LEVEL {
        level[now.level]->product_s16(x, ld, rows, steps, pairs, out(0), ld_out, order);
        finish(0);
    }
}

static void check_dense(void)
{
    const size_t pads[] = {0, 0, 4, 60, 1};
    for EACH(r, row_counts)
        for EACH(s, step_counts)
            for (int class = 0; class < CLASSES; class++) {
                if (row_counts[r] * step_counts[s] > 2000 && class != (int)((r + s) % CLASSES))
                    continue;
                const size_t pad = PICK(pads);
                product_s8(row_counts[r], step_counts[s], pad, class, (unsigned)below(8), PICK(ld_outs), (int)below(2));
                product_s16(row_counts[r], step_counts[s], pad, class, PICK(ld_outs), (int)below(2));
            }
    for (unsigned begins = 0; begins < 8; begins++)
        for (int order = 0; order < 2; order++)
            for (size_t rows = 1; rows < 15; rows++)
                product_s8(rows, 6, 0, RANDOM, begins, 64, order);
}

/* ---- products that skip zeros ------------------------------------------------------------------------------------ */

#define LARGEST_DEPTH ((size_t)65536)

static const size_t nonzero_counts[] = {0, 4, 8, 12, 60};

/* `count` ascending rows below depth; the last few are padding. */
static sppim_nonzeros nonzeros(size_t count, size_t depth, int class, bool high)
{
    uint16_t *index = input(0, 2 * count);
    int8_t *value8 = input8(1, count, class), *high8 = high ? input8(2, count, class) : NULL;
    int16_t *value16 = input16(3, count, class);
    for (size_t i = 0; i < count; i++)
        index[i] = (uint16_t)((i * depth + below(depth)) / count);
    for (size_t padding = count ? below(4) : 0, i = count - padding; i < count; i++) {
        index[i] = (uint16_t)(below(2) ? index[count - padding - 1] : 0);
        value8[i] = 0;
        value16[i] = 0;
        if (high)
            high8[i] = 0;
    }
    return (sppim_nonzeros){index, value8, high8, value16, count};
}

static void product_sparse_s8(size_t count, size_t depth, size_t groups, bool high, int class)
{
    const size_t stride = depth * 64 + 64 * below(2);
    CASE("product_sparse_s8", "count depth groups high class", (long)count, (long)depth, (long)groups, high, class);
    const sppim_nonzeros x = nonzeros(count, depth, class, high);
    const uint8_t *rows = (const uint8_t *)input8(4, (groups - 1) * stride + depth * 64, below(2) ? class : RANDOM);
    fill32(add_output(groups * 256), groups * 64, below(2) ? EXTREME : RANDOM);
    if (high)
        fill32(add_output(groups * 256), groups * 64, RANDOM);
    for EACH_LEVEL {
        level[now.level]->product_sparse_s8(x, rows, stride, groups, out(0), high ? out(1) : NULL);
        finish(0);
    }
}

static void product_sparse_s16(size_t count, size_t depth, int class)
{
    CASE("product_sparse_s16", "count depth class", (long)count, (long)depth, class);
    const sppim_nonzeros x = nonzeros(count, depth, class, false);
    const int16_t *pairs = input16(4, depth * 32, below(2) ? class : RANDOM);
    fill32(add_output(128), 32, below(2) ? EXTREME : RANDOM);
    for EACH_LEVEL {
        level[now.level]->product_sparse_s16(x, pairs, out(0));
        finish(0);
    }
}

static void product_finite_s16(size_t count, int bits, int overflow, int class)
{
    const size_t depth = 64;
    CASE("product_finite_s16", "count bits overflow class", (long)count, bits, overflow, class);
    const sppim_nonzeros x = nonzeros(count, depth, class, false);
    const int16_t *pairs = input16(4, depth * 32, below(2) ? class : SMALL);
    int32_t *acc = add_output(128);
    for (size_t i = 0; i < 32; i++)
        acc[i] = (int32_t)value(below(2) ? EXTREME : RANDOM, bits);
    for EACH_LEVEL {
        const uint64_t changed =
            level[now.level]->product_finite_s16(x, pairs, (sppim_accumulator){bits, overflow}, out(0));
        finish(changed);
    }
}

static void check_sparse(void)
{
    const size_t group_counts[] = {1, 2, 3, 4, 5, 8};
    for EACH(c, nonzero_counts)
        for (int class = 0; class < CLASSES; class++) {
            for EACH(g, group_counts)
                for (int high = 0; high < 2; high++)
                    product_sparse_s8(nonzero_counts[c], 72, group_counts[g], high, class);
            for (int repeat = 0; repeat < 10; repeat++)
                product_sparse_s16(nonzero_counts[c], 72, class);
            for (int bits = 8; bits <= 32; bits++)
                for (int overflow = 0; overflow < SPPIM_OVERFLOW_COUNT; overflow++)
                    product_finite_s16(nonzero_counts[c], bits, overflow, class);
        }
    product_sparse_s8(60, LARGEST_DEPTH, 1, true, RANDOM);
    product_sparse_s16(60, LARGEST_DEPTH, RANDOM);
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
    add_output(32);
    for EACH_LEVEL
        finish(level[now.level]->requantize_relu_s32(acc, shift, hi, out(0)));
}

static void requantize_s64(int shift, int round, int hi)
{
    CASE("requantize_relu_s64", "shift round hi", shift, round, hi);
    int64_t *acc = input(0, 256);
    for (size_t i = 0; i < 32; i++)
        acc[i] = near_edge(shift, 63, hi);
    add_output(32);
    for EACH_LEVEL
        finish(level[now.level]->requantize_relu_s64(acc, shift, round, hi, out(0)));
}

static void gate_s32(int shift, int class)
{
    CASE("gate_s32", "shift class", shift, class);
    const int32_t *acc = sums_near_edges(shift, SPPIM_ERROR_MAX);
    const int8_t *y = input8(1, 32, class);
    add_output(32);
    for EACH_LEVEL
        finish(level[now.level]->gate_s32(acc, y, shift, out(0)));
}

static void widen_s32(size_t count)
{
    CASE("widen_s32", "count", (long)count);
    const int32_t *sum = input32(0, count, below(2) ? EXTREME : RANDOM);
    int64_t *acc = add_output(8 * count);
    for (size_t i = 0; i < count; i++)
        acc[i] = value(RANDOM, 62);
    for EACH_LEVEL {
        level[now.level]->widen_s32(sum, count, out(0));
        finish(0);
    }
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
        for (size_t count = 0; count <= 320; count += 32)
            widen_s32(count);
    }
}

/* ---- facts about inputs, and their other orders ------------------------------------------------------------------ */

static void compress_s8(size_t count, size_t base, int class)
{
    CASE("compress_s8", "count base class", (long)count, (long)base, class);
    const int8_t *x = input8(0, count, class);
    add_output(2 * (count + 64));
    add_output(count + 64);
    for EACH_LEVEL {
        const size_t found = level[now.level]->compress_s8(x, count, base, out(0), out(1));
        if (found <= count) { /* what the 64 places after the last contain is free */
            memcpy((uint16_t *)out(0) + found, output[0].initial + GUARD + 2 * found, 2 * 64);
            memcpy((int8_t *)out(1) + found, output[1].initial + GUARD + found, 64);
        }
        finish(found);
    }
}

static void compress_s16(size_t count, size_t base, int class)
{
    CASE("compress_s16", "count base class", (long)count, (long)base, class);
    const int16_t *x = input16(0, count, class);
    add_output(2 * (count + 64));
    add_output(2 * (count + 64));
    for EACH_LEVEL {
        const size_t found = level[now.level]->compress_s16(x, count, base, out(0), out(1));
        for (int i = 0; found <= count && i < 2; i++)
            memcpy((uint16_t *)out(i) + found, output[i].initial + GUARD + 2 * found, 2 * 64);
        finish(found);
    }
}

static void columns_s32(size_t panels)
{
    CASE("columns_s32", "panels", (long)panels);
    const int32_t *lanes = input32(0, panels * SPPIM_PANEL, RANDOM);
    add_output(4 * panels * SPPIM_PANEL);
    for EACH_LEVEL {
        level[now.level]->columns_s32(lanes, panels, out(0));
        finish(0);
    }
}

static void census_s8(size_t count, int class)
{
    CASE("census_s8", "count class", (long)count, class);
    const int8_t *x = input8(0, count, class);
    add_output(4);
    for EACH_LEVEL
        finish(level[now.level]->census_s8(x, count, out(0)));
}

static void tally_s8(size_t rows, size_t columns, size_t pad, int class)
{
    const size_t ld = columns + pad;
    CASE("tally_s8", "rows columns ld class", (long)rows, (long)columns, (long)ld, class);
    const int8_t *x = input8(0, extent(rows, ld, columns), class);
    fill32(add_output(4 * columns), columns, SMALL);
    fill32(add_output(4 * columns), columns, RANDOM);
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
    const size_t stored = rows + below(rows + 1), ld = columns + pad, ld_out = sppim_round_up(rows, 16) + 16 * below(3);
    CASE("transpose_s8", "rows columns ld ld_out", (long)rows, (long)columns, (long)ld, (long)ld_out);
    const int8_t *x = input8(0, extent(stored, ld, columns), RANDOM);
    const uint16_t *row = chosen_rows(rows, stored);
    add_output(extent(columns, ld_out, sppim_round_up(rows, 16)));
    for EACH_LEVEL {
        level[now.level]->transpose_s8(x, row, rows, ld, columns, out(0), ld_out);
        finish(0);
    }
}

static void pack_s8(size_t rows, size_t pad)
{
    const size_t stored = rows + below(rows + 1), ld = 64 + pad, depth = sppim_round_up(rows, 4);
    const size_t stride = depth * 32 + 64 * below(3);
    CASE("pack_s8", "rows ld stride", (long)rows, (long)ld, (long)stride);
    const int8_t *x = input8(0, extent(stored, ld, 64), RANDOM);
    const uint16_t *row = chosen_rows(rows, stored);
    add_output(stride + depth * 32);
    add_output(depth * 64);
    for EACH_LEVEL {
        level[now.level]->pack_s8(x, row, rows, ld, out(0), stride, out(1));
        finish(0);
    }
}

static void check_inputs(void)
{
    const size_t lengths[] = {0, 1, 2, 31, 32, 33, 63, 64, 65, 95, 127, 128, 129, 200, 1000, 5000};
    const size_t tallied[] = {0, 1, 2, 3, 64, 254, 255}, pads[] = {0, 64, 7};
    for (int repeat = 0; repeat < 4; repeat++)
        for EACH(n, lengths)
            for (int class = 0; class < CLASSES; class++) {
                compress_s8(lengths[n], PICK(lengths), class);
                compress_s8(lengths[n], 65536 - lengths[n], class);
                compress_s16(lengths[n], 65536 - lengths[n], class);
                census_s8(lengths[n], class);
            }
    for (size_t panels = 0; panels < 6; panels++)
        columns_s32(panels);
    for EACH(r, tallied)
        for (size_t columns = 0; columns <= 192; columns += 64)
            for (int class = 0; class < CLASSES; class++)
                tally_s8(tallied[r], columns, PICK(pads), class);
    for (size_t rows = 0; rows <= 70; rows++)
        for EACH(p, pads) {
            pack_s8(rows, pads[p]);
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
    int16_t *w = input(0, 2 * count);
    for (size_t i = 0; i < count; i++)
        w[i] = (int16_t)(below(4) ? sppim_sat(value(RANDOM, 16), -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX)
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

static void update_s16(size_t rows, size_t ld, int shift, int round, int product_bits, int kind)
{
    const bool in_place = below(2), bytes = product_bits <= 8;
    const unsigned wanted = (unsigned)below(8);
    const size_t count = rows * 32, columns = below(3) ? 1 + below(2000) : below(1 << 20);
    const uint32_t index = (uint32_t)(below(2) ? below(4096) : below((size_t)1 << 31));
    const sppim_update u = {.shift = shift, .round = round, .k0 = (uint32_t)draw(), .k1 = (uint32_t)draw(),
                            .product_bits = product_bits, .columns = columns, .narrow = kind == 0 && below(2)};
    CASE("update_s16", "rows ld shift round bits kind narrow in_place wanted index columns", (long)rows, (long)ld, shift,
         round, product_bits, kind, u.narrow, in_place, (long)wanted, (long)index, (long)columns);
    const int16_t *w = some_weights(count);
    const int32_t *gradient = some_gradient(rows, ld, shift, kind);
    if (in_place)
        memcpy(add_output(2 * count), w, 2 * count);
    else
        add_output(2 * count);
    add_output(rows);           /* zeros */
    add_output(count);          /* quads */
    add_output(2 * count + 32); /* rows */
    add_output(2 * count);      /* pairs */
    for EACH_LEVEL {
        const sppim_update_rows panel = {.w = in_place ? out(0) : w, .w_next = out(0), .zeros = out(1),
                                         .quads = bytes && wanted & 1 ? out(2) : NULL,
                                         .rows = bytes && wanted & 2 ? (uint8_t *)out(3) + index % 2 * 32 : NULL,
                                         .pairs = wanted & 4 ? out(4) : NULL};
        finish(level[now.level]->update_s16(&u, gradient, ld, rows, index, panel));
    }
}

static void check_update(void)
{
    const size_t row_groups[] = {0, 4, 8, 12, 64}, lds[] = {32, 256};
    for (int shift = 0; shift <= 16; shift++)
        for (int product_bits = 2; product_bits <= 16; product_bits++)
            for (int kind = 0; kind < 4; kind++)
                for (int repeat = 0; repeat < 3; repeat++)
                    update_s16(PICK(row_groups), PICK(lds), shift, SPPIM_SR, product_bits, kind);
    for (int shift = 0; shift <= 46; shift++)
        for (int round = 0; round < SPPIM_ROUNDING_COUNT; round++)
            for (int kind = 0; kind < 4; kind++)
                update_s16(8, 32, shift, round, 2 + (int)below(15), kind);
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
    check_inputs();
    check_update();
    printf("checks %zu\n", checks);
    return 0;
}
