/* y = x w (A11.1): bytes by bytes in 32 bits, anything else as 16-bit products, or as two planes of bytes, in 64 bits.
 *
 * Operands become signed bytes or words in rows that kernels can read whole; tasks are blocks of rows with a group of columns. */
#include "matrix.h"

#include <string.h>

#include "fixed.h"

#define BLOCK_ROWS ((size_t)72) /* a multiple of the tiles of the vector levels */
#define TASK_MACS ((size_t)8000000)
#define SPARSE_ROWS_BYTES ((size_t)448) /* of weights, that stay in the first-level cache */
#define SPARSE_ROWS_PAIRS ((size_t)256)
#define SPAN              ((size_t)4) /* groups whose sums stay in registers while a list is read once ... */
#define SPAN_ROWS         ((size_t)2048) /* ... if so many rows of them stay in the second-level cache */

typedef struct scratch {
    int32_t *sums, *high; /* [BLOCK_ROWS][SPPIM_GROUP] */
    int64_t *wide;
    uint64_t changed;
} scratch;

typedef struct product {
    sppim_engine *engine;
    const sppim_weights *w;
    const void *x;
    int32_t type;
    size_t m, ld, block_rows;
    size_t span; /* groups of one task */
    sppim_accumulator accumulator;
    bool bytes;       /* 8-bit kernels; else pairs */
    bool wide_output; /* s64 */
    bool finite, skip;
    bool in_place;    /* the kernels read x itself */
    int planes;       /* of x: 1, or 2 whose second counts plane_scale times */
    int32_t plane_scale, offset; /* x = value + plane_scale second + offset */
    size_t exact_steps; /* pairs: steps that an s32 sum is exact for */
    int8_t *operands[2];
    int16_t *words[2];
    int32_t *shift[2]; /* -128 times the sums of operands */
    uint16_t *index;
    uint32_t *offsets; /* [m][blocks + 1] */
    size_t block, blocks, list_ld;
    scratch *scratch;
    char *y;
} product;

static int32_t operand(const product *p, size_t i)
{
    if (p->type == SPPIM_S16)
        return ((const int16_t *)p->x)[i];
    return p->type == SPPIM_S8 ? ((const int8_t *)p->x)[i] : ((const uint8_t *)p->x)[i];
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

typedef struct facts {
    int32_t largest; /* magnitude, or a bound of it */
    int32_t highest; /* or a bound: the same bits set */
    uint64_t nonzeros;
} facts;

#define PART ((size_t)4096) /* values whose count fits a small integer: compilers make vectors of such loops */

static facts survey_words(const int16_t *x, size_t count)
{
    facts f = {0};
    int16_t low = 0, high = 0;
    for (size_t first = 0; first < count; first += PART) {
        uint16_t nonzeros = 0;
        for (size_t i = first; i < sppim_smaller(count, first + PART); i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
            nonzeros = (uint16_t)(nonzeros + (x[i] != 0));
        }
        f.nonzeros += nonzeros;
    }
    f.highest = high;
    f.largest = high > -low ? high : -low;
    return f;
}

/* needed: whether the plan depends on the values at all. */
static facts survey_bytes(const product *p, size_t count, bool needed)
{
    facts f = {.largest = p->type == SPPIM_U8 ? 255 : 128, .highest = p->type == SPPIM_U8 ? 255 : 127};
    if (!needed)
        return f;
    int32_t sum;
    for (size_t first = 0; first < count; first += PART * PART)
        f.nonzeros += p->engine->kernels->census_s8((const int8_t *)p->x + first,
                                                    sppim_smaller(PART * PART, count - first), &sum);
    const uint8_t *x = p->x;
    uint8_t any = 0;
    for (size_t i = 0; p->type == SPPIM_U8 && i < count; i++)
        any |= x[i];
    f.highest = any;
    if (any && any < 128)
        f.largest = 127;
    return f;
}

/* Density of non-zeros, in percent, below which skipping beats the dense product (docs/kernels.md): many rows of x, which share the
 * weights that they load; a few. Bytes above 127 take two planes in lists only. */
#define FEW_ROWS 4
static const unsigned crossover_bytes[2] = {37, 75}, crossover_high_bytes[2] = {25, 60};
static const unsigned crossover_planes[2] = {67, 90}, crossover_pairs[2] = {15, 38};

static unsigned crossover(const product *p, const facts *f)
{
    const unsigned *by_rows = !p->bytes              ? crossover_pairs
                              : p->type == SPPIM_S16 ? crossover_planes
                              : f->highest > 127     ? crossover_high_bytes
                                                     : crossover_bytes;
    return by_rows[p->m < FEW_ROWS];
}

/* Splits 16-bit values, and in lists unsigned bytes above 127, so that the kernels' operands hold them. */
static void plan_planes(product *p, const facts *f)
{
    p->planes = 1;
    p->plane_scale = p->offset = 0;
    if (p->bytes && p->type == SPPIM_S16) {
        p->planes = 2;
        p->plane_scale = 256;
        p->offset = p->skip ? 0 : 128; /* both bytes signed: exact below 32640, or with the offset everywhere */
    } else if (p->bytes && f->highest > 127) {
        p->planes = p->skip ? 2 : 1;
        p->plane_scale = 128;
        p->offset = p->skip ? 0 : 128;
    } else if (!p->bytes && !p->finite && p->exact_steps < 32) {
        p->planes = 2;
        p->plane_scale = 256;
    }
}

static void plan(product *p, int32_t path)
{
    const size_t count = p->m * p->w->k;
    const bool needed = path != SPPIM_PATH_DENSE || p->accumulator.bits || !p->w->bytes;
    const facts f = p->type == SPPIM_S16 ? survey_words(p->x, count) : survey_bytes(p, count, needed);
    const sppim_weights *w = p->w;
    const uint64_t terms = (uint64_t)f.largest * (uint64_t)w->largest;
    const bool bytes_in = p->type != SPPIM_S16;
    p->wide_output = !w->bytes || !bytes_in;
    p->finite = p->accumulator.bits && terms * w->k >= (uint64_t)1 << (p->accumulator.bits - 1);
    p->bytes = w->bytes && !p->finite;
    p->exact_steps = terms ? (size_t)((uint64_t)INT32_MAX / (2 * terms)) : w->depth;
    p->skip = path == SPPIM_PATH_AUTO ? 100 * f.nonzeros < crossover(p, &f) * (uint64_t)p->m * w->k : path == SPPIM_PATH_SPARSE;
    if ((p->bytes && f.highest > 32639) || (!p->bytes && p->exact_steps < SPARSE_ROWS_PAIRS / 2))
        p->skip = false; /* beyond what the lists can split */
    p->skip |= p->finite;
    plan_planes(p, &f);
    p->span = p->skip && p->bytes && w->k <= SPAN_ROWS ? SPAN : 1;
    const size_t most = p->finite || p->span > 1 ? w->k : p->bytes ? SPARSE_ROWS_BYTES : SPARSE_ROWS_PAIRS;
    p->block = sppim_round_up(sppim_ceil_div(w->k, sppim_ceil_div(w->k, most)), SPPIM_DEPTH);
    p->blocks = sppim_ceil_div(w->k, p->block);
    const bool whole = w->k % SPPIM_DEPTH == 0; /* steps of the kernels end with the row */
    p->in_place = !p->skip && whole && p->planes == 1 && !p->offset && (p->bytes || p->type == SPPIM_S16);
    p->ld = p->in_place ? w->k : sppim_round_up(w->k, SPPIM_GROUP);
    p->list_ld = w->depth + SPPIM_DEPTH * p->blocks + SPPIM_GROUP; /* padding; what compressing writes beyond its end */
    p->block_rows = sppim_larger(1, sppim_smaller(BLOCK_ROWS, TASK_MACS / (w->k * SPPIM_GROUP)) / p->span);
}

static void lay_out(product *p, sppim_arena *arena)
{
    const size_t width = p->skip ? p->list_ld : p->ld;
    for (int i = 0; i < p->planes; i++) {
        if (p->in_place)
            p->operands[0] = (int8_t *)(uintptr_t)p->x, p->words[0] = (int16_t *)(uintptr_t)p->x; /* only read */
        else if (p->bytes)
            SPPIM_PIECE(arena, p->operands[i], p->m * width);
        else
            SPPIM_PIECE(arena, p->words[i], p->m * width);
        SPPIM_PIECE(arena, p->shift[i], p->m);
    }
    if (p->skip) {
        SPPIM_PIECE(arena, p->index, p->m * width);
        SPPIM_PIECE(arena, p->offsets, p->m * (p->blocks + 1));
    }
    SPPIM_PIECE(arena, p->scratch, p->engine->threads);
    for (size_t i = 0; i < p->engine->threads; i++) {
        scratch s = {0};
        SPPIM_PIECE(arena, s.sums, BLOCK_ROWS * SPPIM_GROUP);
        SPPIM_PIECE(arena, s.high, BLOCK_ROWS * SPPIM_GROUP);
        SPPIM_PIECE(arena, s.wide, BLOCK_ROWS * SPPIM_GROUP);
        if (arena->base)
            p->scratch[i] = s;
    }
}

/* ---- operands ------------------------------------------------------------------------------------------------------ */

/* Parts of some 16-bit values; with an offset both bytes are signed everywhere, without one up to 32639. */
static void split_words(const int16_t *v, size_t count, bool offset, int8_t *low, int8_t *high)
{
    if (offset)
        for (size_t i = 0; i < count; i++) {
            low[i] = (int8_t)((v[i] & 255) - 128);
            high[i] = (int8_t)(v[i] >> 8);
        }
    else
        for (size_t i = 0; i < count; i++) {
            low[i] = (int8_t)(v[i] & 255);
            high[i] = (int8_t)((int16_t)(v[i] + 128) >> 8);
        }
}

static void split_wide_words(const int16_t *v, size_t count, int16_t *low, int16_t *high)
{
    for (size_t i = 0; i < count; i++) {
        high[i] = (int16_t)((v[i] + 128) >> 8);
        low[i] = (int16_t)(v[i] - 256 * high[i]);
    }
}

static void split_bytes(const uint8_t *v, size_t count, int8_t *low, int8_t *high)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t value = v[i]; /* low may be v */
        high[i] = (int8_t)(value >> 7);
        low[i] = (int8_t)(value & 127);
    }
}

static void flip_bytes(const uint8_t *v, size_t count, int8_t *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (int8_t)(v[i] ^ 128);
}

static void widen(const product *p, size_t first, size_t count, int16_t *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (int16_t)operand(p, first + i);
}

/* A row of x as dense operands; already there if the kernels read x itself. */
static void copy_row(const product *p, size_t r)
{
    const size_t k = p->w->k, from = r * k, to = r * p->ld;
    const uint8_t *bytes = (const uint8_t *)p->x + from;
    const int16_t *words = (const int16_t *)p->x + from;
    if (p->bytes && p->type == SPPIM_S16)
        split_words(words, k, true, p->operands[0] + to, p->operands[1] + to);
    else if (p->bytes && p->offset)
        flip_bytes(bytes, k, p->operands[0] + to);
    else if (p->bytes)
        memcpy(p->operands[0] + to, bytes, k);
    else if (p->planes == 2)
        split_wide_words(words, k, p->words[0] + to, p->words[1] + to);
    else
        widen(p, from, k, p->words[0] + to);
    for (int i = 0; i < p->planes; i++)
        if (p->bytes)
            memset(p->operands[i] + to + k, 0, p->ld - k);
        else
            memset(p->words[i] + to + k, 0, (p->ld - k) * sizeof **p->words);
}

static void shift_row(const product *p, size_t r, size_t first, size_t count)
{
    for (int i = 0; p->bytes && i < p->planes; i++) {
        int32_t sum;
        p->engine->kernels->census_s8(p->operands[i] + first, count, &sum);
        p->shift[i][r] = -SPPIM_OFFSET * sum;
    }
}

/* Non-zeros of part of a row of x from `first` on; index counts from base. */
static size_t list_part(const product *p, size_t first, size_t count, size_t base, size_t to)
{
    const sppim_kernels *kernels = p->engine->kernels;
    uint16_t *index = p->index + to;
    if (p->type == SPPIM_S16 && !p->bytes)
        return kernels->compress_s16((const int16_t *)p->x + first, count, base, index, p->words[0] + to);
    if (p->type == SPPIM_S16) {
        int16_t value[SPAN_ROWS + SPPIM_GROUP];
        const size_t found = kernels->compress_s16((const int16_t *)p->x + first, count, base, index, value);
        split_words(value, found, false, p->operands[0] + to, p->operands[1] + to);
        return found;
    }
    if (!p->bytes) {
        size_t found = 0;
        for (size_t i = 0; i < count; i++) {
            const int32_t value = operand(p, first + i);
            index[found] = (uint16_t)(base + i);
            p->words[0][to + found] = (int16_t)value;
            found += value != 0;
        }
        return found;
    }
    const size_t found = kernels->compress_s8((const int8_t *)p->x + first, count, base, index, p->operands[0] + to);
    if (p->planes == 2)
        split_bytes((const uint8_t *)p->operands[0] + to, found, p->operands[0] + to, p->operands[1] + to);
    return found;
}

/* Lists of a row, block by block, each padded to a multiple of 4. */
static void list_row(const product *p, size_t r)
{
    const size_t k = p->w->k, base = r * p->list_ld;
    uint32_t *offsets = p->offsets + r * (p->blocks + 1);
    size_t found = 0;
    for (size_t i = 0; i < p->blocks; i++) {
        const size_t first = i * p->block;
        offsets[i] = (uint32_t)found;
        found += list_part(p, r * k + first, sppim_smaller(p->block, k - first), first, base + found);
        for (; found % SPPIM_DEPTH; found++) {
            p->index[base + found] = (uint16_t)first;
            for (int plane = 0; plane < p->planes; plane++)
                if (p->bytes)
                    p->operands[plane][base + found] = 0;
                else
                    p->words[plane][base + found] = 0;
        }
    }
    offsets[p->blocks] = (uint32_t)found;
    shift_row(p, r, base, found);
}

static void operand_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const product *p = context;
    for (size_t r = index * BLOCK_ROWS; r < sppim_smaller(p->m, (index + 1) * BLOCK_ROWS); r++)
        if (p->skip) {
            list_row(p, r);
        } else {
            if (!p->in_place)
                copy_row(p, r);
            shift_row(p, r, r * p->ld, p->ld);
        }
}

/* ---- a block of rows with a group of columns -------------------------------------------------------------------------- */

typedef struct block {
    size_t first, rows, group, panels;
    size_t width; /* columns of the sums in scratch: panels, rounded up to a span */
    scratch *scratch;
} block;

static sppim_nonzeros listed(const product *p, size_t r, size_t block)
{
    const uint32_t *offset = p->offsets + r * (p->blocks + 1) + block;
    const size_t at = r * p->list_ld + offset[0];
    sppim_nonzeros x = {.index = p->index + at, .count = offset[1] - offset[0]};
    if (p->bytes) {
        x.value = p->operands[0] + at;
        x.high = p->planes == 2 ? p->operands[1] + at : NULL;
    } else {
        x.value16 = p->words[0] + at;
    }
    return x;
}

/* Where the sums of a whole panel can go without a detour. One plane of bytes makes 32-bit results. */
static int32_t *direct(const product *p, const block *t, size_t panel)
{
    if (p->planes == 2 || (panel + 1) * SPPIM_PANEL > p->w->n)
        return NULL;
    return (int32_t *)p->y + t->first * p->w->n + panel * SPPIM_PANEL;
}

static void dense_bytes(const product *p, const block *t)
{
    const sppim_weights *w = p->w;
    for (size_t h = 0; h < t->panels; h++)
        for (int i = 0; i < p->planes; i++) {
            const size_t panel = 2 * t->group + h;
            int32_t *to = direct(p, t, panel), one = p->offset, scale[BLOCK_ROWS];
            for (size_t r = 0; r < t->rows; r++)
                scale[r] = one;
            const sppim_start start = {i == 0 && one ? w->sums + panel * SPPIM_PANEL : NULL, scale, p->shift[i] + t->first};
            p->engine->kernels->product_s8(p->operands[i] + t->first * p->ld, p->ld, t->rows, sppim_ceil_div(w->k, 4),
                                           w->quads + panel * w->depth * SPPIM_PANEL, start,
                                           to ? to : (i ? t->scratch->high : t->scratch->sums) + h * SPPIM_PANEL,
                                           to ? w->n : SPPIM_GROUP, SPPIM_COLUMNS);
        }
}

static void sparse_bytes(const product *p, const block *t)
{
    const sppim_weights *w = p->w;
    const size_t stride = w->depth * SPPIM_GROUP, groups = sppim_ceil_div(t->panels, 2);
    int32_t *sums[2] = {t->scratch->sums, t->scratch->high};
    for (int i = 0; i < p->planes; i++)
        for (size_t r = 0; r < t->rows; r++)
            for (size_t c = 0; c < t->width; c++)
                sums[i][r * t->width + c] = p->shift[i][t->first + r];
    for (size_t b = 0; b < p->blocks; b++)
        for (size_t r = 0; r < t->rows; r++)
            p->engine->kernels->product_sparse_s8(listed(p, t->first + r, b), w->rows + t->group * stride, stride, groups,
                                                  sums[0] + r * t->width, sums[1] + r * t->width);
    for (int i = 0; i < p->planes; i++)
        p->engine->kernels->columns_s32(sums[i], t->rows * t->width / SPPIM_PANEL, sums[i]);
}

static const int16_t *pairs_of(const product *p, const block *t, size_t h)
{
    return p->w->pairs + (2 * t->group + h) * p->w->depth * SPPIM_PANEL;
}

/* Adds scale times the sums of one plane to scratch->wide. */
static void dense_plane(const product *p, const block *t, int plane, int32_t scale)
{
    const size_t steps = sppim_ceil_div(p->w->k, 2), most = p->planes == 2 ? 255 : p->exact_steps;
    for (size_t step = 0; step < steps; step += most) {
        for (size_t h = 0; h < t->panels; h++)
            p->engine->kernels->product_s16(p->words[plane] + t->first * p->ld + 2 * step, p->ld, t->rows,
                                            sppim_smaller(most, steps - step), pairs_of(p, t, h) + 2 * step * SPPIM_PANEL,
                                            t->scratch->sums + h * SPPIM_PANEL, SPPIM_GROUP, SPPIM_COLUMNS);
        if (scale == 1)
            p->engine->kernels->widen_s32(t->scratch->sums, t->rows * SPPIM_GROUP, t->scratch->wide);
        else
            for (size_t i = 0; i < t->rows * SPPIM_GROUP; i++)
                t->scratch->wide[i] += (int64_t)scale * t->scratch->sums[i];
    }
}

static void sparse_pairs(const product *p, const block *t)
{
    for (size_t b = 0; b < p->blocks; b++) {
        memset(t->scratch->sums, 0, t->rows * SPPIM_GROUP * sizeof *t->scratch->sums);
        for (size_t h = 0; h < t->panels; h++)
            for (size_t r = 0; r < t->rows; r++) {
                int32_t *sums = t->scratch->sums + r * SPPIM_GROUP + h * SPPIM_PANEL;
                p->engine->kernels->product_sparse_s16(listed(p, t->first + r, b), pairs_of(p, t, h), sums);
            }
        p->engine->kernels->columns_s32(t->scratch->sums, 2 * t->rows, t->scratch->sums);
        p->engine->kernels->widen_s32(t->scratch->sums, t->rows * SPPIM_GROUP, t->scratch->wide);
    }
}

static void finite_pairs(const product *p, const block *t)
{
    memset(t->scratch->sums, 0, t->rows * SPPIM_GROUP * sizeof *t->scratch->sums);
    for (size_t h = 0; h < t->panels; h++)
        for (size_t r = 0; r < t->rows; r++) {
            int32_t *sums = t->scratch->sums + r * SPPIM_GROUP + h * SPPIM_PANEL;
            t->scratch->changed += p->engine->kernels->product_finite_s16(listed(p, t->first + r, 0), pairs_of(p, t, h),
                                                                          p->accumulator, sums);
        }
    p->engine->kernels->columns_s32(t->scratch->sums, 2 * t->rows, t->scratch->sums);
    p->engine->kernels->widen_s32(t->scratch->sums, t->rows * SPPIM_GROUP, t->scratch->wide);
}

/* ---- results ------------------------------------------------------------------------------------------------------------ */

/* 8-bit sums with their second plane to scratch->wide. */
static void join_planes(const product *p, const block *t)
{
    for (size_t i = 0; i < t->rows * t->width; i++)
        t->scratch->wide[i] = t->scratch->sums[i] + (int64_t)p->plane_scale * t->scratch->high[i];
}

static void store_narrow(const product *p, const block *t)
{
    const size_t column = t->group * SPPIM_GROUP, columns = sppim_smaller(t->width, p->w->n - column);
    const size_t done = p->skip ? 0 : columns / SPPIM_PANEL * SPPIM_PANEL; /* whole panels went straight there */
    for (size_t r = 0; done < columns && r < t->rows; r++)
        memcpy((int32_t *)p->y + (t->first + r) * p->w->n + column + done, t->scratch->sums + r * t->width + done,
               (columns - done) * sizeof(int32_t));
}

static void store_wide(const product *p, const block *t)
{
    const size_t column = t->group * SPPIM_GROUP, columns = sppim_smaller(t->width, p->w->n - column);
    for (size_t r = 0; r < t->rows; r++) {
        const int64_t *from = t->scratch->wide + r * t->width;
        const size_t to = (t->first + r) * p->w->n + column;
        if (p->wide_output)
            memcpy((int64_t *)p->y + to, from, columns * sizeof *from);
        else
            for (size_t c = 0; c < columns; c++)
                ((int32_t *)p->y)[to + c] = (int32_t)from[c];
    }
}

static void product_task(void *context, size_t index, sppim_worker *worker)
{
    const product *p = context;
    const size_t spans = sppim_ceil_div(p->w->groups, p->span);
    block t = {.first = index / spans * p->block_rows, .group = index % spans * p->span, .width = p->span * SPPIM_GROUP,
               .scratch = &p->scratch[worker->id]};
    t.rows = sppim_smaller(p->block_rows, p->m - t.first);
    t.panels = sppim_smaller(2 * p->span, p->w->panels - 2 * t.group);
    if (p->bytes) {
        (p->skip ? sparse_bytes : dense_bytes)(p, &t);
        if (p->planes == 1) {
            store_narrow(p, &t);
            return;
        }
        join_planes(p, &t);
    } else {
        memset(t.scratch->wide, 0, t.rows * SPPIM_GROUP * sizeof *t.scratch->wide);
        if (p->finite)
            finite_pairs(p, &t);
        else if (p->skip)
            sparse_pairs(p, &t);
        else
            for (int i = 0; i < p->planes; i++)
                dense_plane(p, &t, i, i ? p->plane_scale : 1);
    }
    store_wide(p, &t);
}

static sppim_status multiply(product *p, int32_t path, uint64_t *changed)
{
    plan(p, path);
    sppim_arena arena = {0};
    lay_out(p, &arena);
    arena = (sppim_arena){sppim_engine_memory(p->engine, arena.used), 0};
    if (!arena.base)
        return SPPIM_ERROR_MEMORY;
    lay_out(p, &arena);
    const size_t tasks = sppim_ceil_div(p->m, p->block_rows) * sppim_ceil_div(p->w->groups, p->span);
    if (!sppim_pool_run(p->engine->pool, operand_task, p, sppim_ceil_div(p->m, BLOCK_ROWS)) ||
        !sppim_pool_run(p->engine->pool, product_task, p, tasks))
        return SPPIM_ERROR_INTERRUPTED;
    uint64_t total = 0;
    for (size_t i = 0; i < p->engine->threads; i++)
        total += p->scratch[i].changed;
    if (changed)
        *changed = total;
    return SPPIM_OK;
}

sppim_status sppim_product(sppim_engine *engine, const sppim_weights *weights, const void *x, int32_t type, size_t m,
                           sppim_accumulator accumulator, int32_t path, sppim_poll poll, void *user, void *y,
                           uint64_t *changed)
{
    if (!engine || !weights || (m && (!x || !y)))
        return SPPIM_ERROR_NULL;
    if ((type != SPPIM_U8 && type != SPPIM_S8 && type != SPPIM_S16) || !sppim_accumulator_valid(accumulator) ||
        !sppim_path_valid(path))
        return SPPIM_ERROR_RANGE;
    if (m > SIZE_MAX / 64 / (weights->depth + weights->n + SPPIM_GROUP))
        return SPPIM_ERROR_SHAPE;
    if (atomic_flag_test_and_set(&engine->busy))
        return SPPIM_ERROR_BUSY;
    sppim_pool_set_poll(engine->pool, poll, user);
    product p = {.engine = engine, .w = weights, .x = x, .type = type, .m = m, .accumulator = accumulator, .y = y};
    sppim_status status = SPPIM_OK;
    if (m)
        status = multiply(&p, path, changed);
    else if (changed)
        *changed = 0;
    atomic_flag_clear(&engine->busy);
    return status;
}
