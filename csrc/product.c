/* y = x w (A11.1). How depends on the operands:
 *   bytes   bytes by bytes, in 32 bits
 *   words   anything else, in 32 bits for as many terms as they hold, then in 64
 *   finite  a list of the non-zeros, in order, with an accumulator that can overflow
 * The first two multiply all of x, or lists of its non-zeros; words in lists meet bytes as two planes of bytes. Tasks
 * are blocks of rows with a span of columns. */
#include "matrix.h"

#include <string.h>

#include "fixed.h"

#define BLOCK_ROWS ((size_t)72) /* a multiple of the tiles of the vector levels */
#define TASK_MACS  ((size_t)8000000)
#define LEAST_STEPS 32 /* if 32 bits hold fewer pairs of products, operands are split into bytes */

enum { BYTES, WORDS, FINITE };

typedef struct scratch {
    int32_t *sums; /* [BLOCK_ROWS][span * SPPIM_GROUP] */
    int64_t *wide; /* the same */
    uint64_t changed;
} scratch;

typedef struct product {
    sppim_engine *engine;
    const sppim_weights *w;
    const void *x;
    int32_t type;
    size_t m, ld, list_ld, block_rows;
    size_t span;      /* groups of one task */
    sppim_accumulator accumulator;
    int form;
    bool skip;
    bool split;       /* lists are of words that meet bytes */
    bool in_place;    /* the kernels read x itself */
    int planes;       /* of dense words: 1, or 2 whose second counts 256 times */
    size_t exact_steps; /* of words: pairs of products that 32 bits hold */
    void *copies[2];  /* [m][ld] of x as operands, bytes or words; null: in place */
    size_t slots;     /* lists that there is room for: of all rows, or of a block for each thread */
    uint16_t *index;  /* [slots][list_ld] */
    uint8_t *value, *high;
    int16_t *value16;
    uint32_t *negatives, *counts; /* [slots] */
    scratch *scratch;
    void *y;
} product;

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

typedef struct facts {
    int32_t largest; /* magnitude, or a bound of it */
    uint64_t nonzeros;
} facts;

/* What the type of x allows. */
static facts bounds(const product *p)
{
    return (facts){.largest = p->type == SPPIM_S16 ? 32768 : p->type == SPPIM_S8 ? 128 : 255};
}

static facts survey(const product *p)
{
    const sppim_kernels *kernels = p->engine->kernels;
    const size_t count = p->m * p->w->k;
    int16_t low = 0, high = 0;
    uint8_t bits = 0;
    facts f = {0};
    f.nonzeros = p->type == SPPIM_S16 ? kernels->census_s16(p->x, count, &low, &high)
                                      : kernels->census_s8(p->x, count, &bits);
    if (p->type == SPPIM_S16)
        f.largest = high > -low ? high : -low;
    else
        f.largest = p->type == SPPIM_S8 && bits > 127 ? 128 : bits;
    return f;
}

static bool choose_skipping(const product *p, const facts *f, int32_t path)
{
    if (p->form == FINITE)
        return true;
    if (p->form == WORDS && !p->w->bytes && p->exact_steps < LEAST_STEPS)
        return false;
    if (path != SPPIM_PATH_AUTO)
        return path == SPPIM_PATH_SPARSE;
    const int kind = p->form == BYTES ? SPPIM_S8_BY_S8 : p->w->bytes ? SPPIM_S16_BY_S8 : SPPIM_S16_BY_S16;
    return sppim_product_skips(kind, p->m, p->w->panels, (uint64_t)p->m * p->w->k, f->nonzeros);
}

static int choose_form(const product *p, uint64_t terms)
{
    if (p->accumulator.bits && terms * p->w->k >= (uint64_t)1 << (p->accumulator.bits - 1))
        return FINITE;
    return p->w->bytes && p->type != SPPIM_S16 ? BYTES : WORDS;
}

/* Groups of columns of one task: those that one reading of a list serves; many, if nobody shares the work. */
static size_t choose_span(const product *p)
{
    if (p->skip)
        return p->form == FINITE ? 1 : sppim_list_span(p->w->depth, p->w->bytes ? 1 : sizeof(int16_t));
    const size_t most = TASK_MACS / (BLOCK_ROWS * SPPIM_GROUP * p->w->k);
    return p->engine->threads > 1 ? 1 : sppim_larger(1, sppim_smaller(SPPIM_SPAN, most));
}

/* Lists of a single span are made where they are used, while they are in the first-level cache. */
static bool prepares_itself(const product *p) { return p->skip && p->span >= p->w->groups; }

static void plan(product *p, int32_t path)
{
    const bool needed = path == SPPIM_PATH_AUTO || p->accumulator.bits || !p->w->bytes; /* do the values matter? */
    const facts f = needed ? survey(p) : bounds(p);
    const uint64_t terms = (uint64_t)f.largest * (uint64_t)p->w->largest;
    p->form = choose_form(p, terms);
    p->exact_steps = terms ? (size_t)((uint64_t)INT32_MAX / (2 * terms)) : LEAST_STEPS; /* all zero */
    p->skip = choose_skipping(p, &f, path);
    p->split = p->skip && p->form == WORDS && p->w->bytes;
    p->planes = !p->skip && p->form == WORDS && p->exact_steps < LEAST_STEPS ? 2 : 1;
    p->span = choose_span(p);
    const bool whole = p->w->k % SPPIM_DEPTH == 0; /* steps of the kernels end with the row */
    p->in_place = whole && p->planes == 1 && (p->form == BYTES || p->type == SPPIM_S16);
    p->ld = p->in_place ? p->w->k : sppim_round_up(p->w->k, SPPIM_GROUP);
    p->list_ld = p->w->depth + 2 * SPPIM_DEPTH + SPPIM_GROUP; /* padding; what compressing writes beyond its end */
    p->block_rows = sppim_larger(1, sppim_smaller(BLOCK_ROWS, TASK_MACS / (p->w->k * SPPIM_GROUP * p->span)));
    p->slots = prepares_itself(p) ? p->engine->threads * p->block_rows : p->m;
}

static void lay_out_operands(product *p, sppim_arena *arena)
{
    const size_t size = p->form == WORDS ? sizeof(int16_t) : 1;
    for (int i = 0; !p->in_place && i < p->planes; i++)
        p->copies[i] = sppim_arena_take(arena, p->m * p->ld, size);
}

static void lay_out_lists(product *p, sppim_arena *arena)
{
    const size_t places = p->slots * p->list_ld;
    SPPIM_PIECE(arena, p->index, places);
    SPPIM_PIECE(arena, p->negatives, p->slots);
    SPPIM_PIECE(arena, p->counts, p->slots);
    if (p->form == BYTES || p->split)
        SPPIM_PIECE(arena, p->value, places);
    if (p->split)
        SPPIM_PIECE(arena, p->high, places);
    else if (p->form != BYTES)
        SPPIM_PIECE(arena, p->value16, places);
}

static void lay_out(product *p, sppim_arena *arena)
{
    (p->skip ? lay_out_lists : lay_out_operands)(p, arena);
    SPPIM_PIECE(arena, p->scratch, p->engine->threads);
    for (size_t i = 0; i < p->engine->threads; i++) {
        scratch s = {0};
        const size_t sums = BLOCK_ROWS * p->span * SPPIM_GROUP;
        SPPIM_PIECE(arena, s.sums, sums);
        SPPIM_PIECE(arena, s.wide, sums);
        if (arena->base)
            p->scratch[i] = s;
    }
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

/* A row of x as words. */
static void widen_row(const product *p, size_t from, int16_t *out)
{
    const size_t k = p->w->k;
    if (p->type == SPPIM_S16)
        memcpy(out, (const int16_t *)p->x + from, k * sizeof *out);
    for (size_t i = 0; p->type == SPPIM_S8 && i < k; i++)
        out[i] = ((const int8_t *)p->x)[from + i];
    for (size_t i = 0; p->type == SPPIM_U8 && i < k; i++)
        out[i] = ((const uint8_t *)p->x)[from + i];
}

/* Words as 256 high + low. */
static void split_row(const int16_t *v, size_t count, int16_t *low, int16_t *high)
{
    for (size_t i = 0; i < count; i++) {
        high[i] = (int16_t)((v[i] + 128) >> 8);
        low[i] = (int16_t)(v[i] - 256 * high[i]);
    }
}

/* A row of x as dense operands. What lies beyond meets zero weights, but is to be defined. */
static void copy_row(const product *p, size_t r)
{
    const size_t from = r * p->w->k, to = r * p->ld, size = p->form == WORDS ? sizeof(int16_t) : 1;
    if (p->planes == 2)
        split_row((const int16_t *)p->x + from, p->w->k, (int16_t *)p->copies[0] + to, (int16_t *)p->copies[1] + to);
    else if (p->form == WORDS)
        widen_row(p, from, (int16_t *)p->copies[0] + to);
    else
        memcpy((int8_t *)p->copies[0] + to, (const int8_t *)p->x + from, p->w->k);
    for (int i = 0; i < p->planes; i++)
        memset((char *)p->copies[i] + (to + p->w->k) * size, 0, (p->ld - p->w->k) * size);
}

static size_t pad_words(uint16_t *index, int16_t *value, size_t count)
{
    memset(index + count, 0, SPPIM_DEPTH * sizeof *index);
    memset(value + count, 0, SPPIM_DEPTH * sizeof *value);
    return sppim_round_up(count, SPPIM_DEPTH);
}

/* All words of a row. */
static size_t list_words(const product *p, size_t r, size_t at)
{
    return pad_words(p->index + at, p->value16 + at,
                     p->engine->kernels->compress_s16((const int16_t *)p->x + r * p->w->k, p->w->k, p->index + at,
                                                      p->value16 + at));
}

/* The bytes of a row of words that `which` names, to place `at` of the lists; returns how many, padding included. */
static size_t list_split(const product *p, size_t r, int which, size_t at)
{
    const int16_t *x = (const int16_t *)p->x + r * p->w->k;
    const size_t count = p->engine->kernels->compress_s16s8(x, p->w->k, which, p->index + at, p->value + at, p->high + at);
    memset(p->high + at + count, 0, SPPIM_DEPTH);
    return sppim_pad_nonzeros(p->index + at, p->value + at, count);
}

/* Bytes as words, in their order. */
static size_t list_widened(const product *p, size_t r, size_t at)
{
    const size_t k = p->w->k;
    const uint8_t *x = (const uint8_t *)p->x + r * k;
    size_t found = 0;
    for (size_t i = 0; i < k; i++) {
        p->index[at + found] = (uint16_t)i;
        p->value16[at + found] = p->type == SPPIM_S8 ? (int8_t)x[i] : x[i];
        found += x[i] != 0;
    }
    return pad_words(p->index + at, p->value16 + at, found);
}

/* Bytes as the 8-bit kernels take them. */
static int flip_of(const product *p) { return p->type == SPPIM_S8 ? SPPIM_SIGNED : SPPIM_UNSIGNED; }

static void list_row(const product *p, size_t r, size_t slot)
{
    const size_t at = slot * p->list_ld, k = p->w->k;
    size_t negatives = 0, count;
    if (p->form == BYTES) {
        const sppim_nonzeros list = sppim_list_s8(p->engine->kernels, (const int8_t *)p->x + r * k, k, flip_of(p),
                                                  p->index + at, p->value + at);
        negatives = list.negatives;
        count = list.count;
    } else if (p->split) {
        negatives = list_split(p, r, SPPIM_NEGATIVE, at);
        count = negatives + list_split(p, r, SPPIM_POSITIVE, at + negatives);
    } else {
        count = (p->type == SPPIM_S16 ? list_words : list_widened)(p, r, at);
    }
    p->negatives[slot] = (uint32_t)negatives;
    p->counts[slot] = (uint32_t)count;
}

static void operand_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const product *p = context;
    for (size_t r = index * BLOCK_ROWS; r < sppim_smaller(p->m, (index + 1) * BLOCK_ROWS); r++)
        if (p->skip)
            list_row(p, r, r);
        else
            copy_row(p, r);
}

static sppim_nonzeros listed(const product *p, size_t slot)
{
    const size_t at = slot * p->list_ld;
    return (sppim_nonzeros){.index = p->index + at, .value = p->value ? p->value + at : NULL,
                            .high = p->high ? p->high + at : NULL, .value16 = p->value16 ? p->value16 + at : NULL,
                            .negatives = p->negatives[slot], .count = p->counts[slot]};
}

/* ---- a block of rows with some columns --------------------------------------------------------------------------- */

typedef struct block {
    size_t first, rows;
    size_t slot; /* of the list of the first */
    size_t column, width; /* whole panels; of y there may be fewer */
    scratch *scratch;
} block;

/* Where the kernels put results of a block: into y, or beside it if y has fewer columns. */
typedef struct target {
    void *to;
    size_t ld;
} target;

static bool beyond(const product *p, const block *t) { return t->column + t->width > p->w->n; }

static target narrow_target(const product *p, const block *t)
{
    if (beyond(p, t))
        return (target){t->scratch->sums, t->width};
    return (target){(int32_t *)p->y + t->first * p->w->n + t->column, p->w->n};
}

static target wide_target(const product *p, const block *t)
{
    if (beyond(p, t))
        return (target){t->scratch->wide, t->width};
    return (target){(int64_t *)p->y + t->first * p->w->n + t->column, p->w->n};
}

/* Brings results that were put beside y to their place. */
static void copy_results(const product *p, const block *t, target from, size_t size)
{
    const size_t columns = p->w->n - t->column;
    for (size_t r = 0; beyond(p, t) && r < t->rows; r++)
        memcpy((char *)p->y + ((t->first + r) * p->w->n + t->column) * size, (const char *)from.to + r * t->width * size,
               columns * size);
}

static const void *operands(const product *p, int plane) { return p->in_place ? p->x : p->copies[plane]; }

static void dense_bytes(const product *p, const block *t)
{
    const target y = narrow_target(p, t);
    const int flip = flip_of(p);
    const sppim_start start = {flip == SPPIM_SIGNED ? p->w->signed_start + t->column : NULL, NULL};
    p->engine->kernels->product_s8((const int8_t *)operands(p, 0) + t->first * p->ld, p->ld, t->rows,
                                   sppim_ceil_div(p->w->k, 4), flip, p->w->quads + t->column * p->w->depth, start, y.to,
                                   y.ld, SPPIM_LANES);
    copy_results(p, t, y, sizeof(int32_t));
}

static void dense_words(const product *p, const block *t)
{
    static const int64_t zeros[SPPIM_PANEL];
    const target y = wide_target(p, t);
    const size_t most = p->planes == 2 ? 255 : p->exact_steps;
    for (int i = 0; i < p->planes; i++)
        sppim_product_words(p->engine->kernels, (const int16_t *)operands(p, i) + t->first * p->ld, p->ld, t->rows,
                            sppim_ceil_div(p->w->k, 2), most, p->w->pairs + t->column * p->w->depth, 8 * i,
                            i ? NULL : zeros, y.to, y.ld);
    copy_results(p, t, y, sizeof(int64_t));
}

static void sparse_bytes(const product *p, const block *t)
{
    const target y = narrow_target(p, t);
    const size_t stride = p->w->depth * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        p->engine->kernels->product_sparse_s8(listed(p, t->slot + r), p->w->rows + t->column * p->w->depth, stride,
                                              t->width / SPPIM_GROUP, (sppim_start){0}, (int32_t *)y.to + r * y.ld,
                                              SPPIM_COLUMNS);
    copy_results(p, t, y, sizeof(int32_t));
}

static void sparse_split(const product *p, const block *t)
{
    const target y = wide_target(p, t);
    const size_t stride = p->w->depth * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        p->engine->kernels->product_sparse_s16s8(listed(p, t->slot + r), p->w->rows + t->column * p->w->depth, stride,
                                                 t->width / SPPIM_GROUP, (int64_t *)y.to + r * y.ld);
    copy_results(p, t, y, sizeof(int64_t));
}

static void sparse_words(const product *p, const block *t)
{
    static const int64_t zeros[SPPIM_SPAN * SPPIM_GROUP];
    const target y = wide_target(p, t);
    const size_t stride = p->w->depth * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        sppim_product_sparse_words(p->engine->kernels, listed(p, t->slot + r), p->exact_steps,
                                   p->w->words + t->column * p->w->depth, stride, t->width / SPPIM_GROUP, zeros,
                                   (int64_t *)y.to + r * y.ld);
    copy_results(p, t, y, sizeof(int64_t));
}

static void finite_panel(const product *p, const block *t)
{
    const size_t columns = sppim_smaller(SPPIM_PANEL, p->w->n - t->column);
    for (size_t r = 0; r < t->rows; r++) {
        int32_t sums[SPPIM_PANEL] = {0};
        t->scratch->changed += p->engine->kernels->product_finite_s16(
            listed(p, t->slot + r), p->w->pairs + t->column * p->w->depth, p->accumulator, sums);
        const size_t to = (t->first + r) * p->w->n + t->column;
        for (size_t c = 0; c < columns; c++)
            if (p->w->bytes && p->type != SPPIM_S16)
                ((int32_t *)p->y)[to + c] = sums[sppim_column_lane(c)];
            else
                ((int64_t *)p->y)[to + c] = sums[sppim_column_lane(c)];
    }
}

static void product_task(void *context, size_t index, sppim_worker *worker)
{
    const product *p = context;
    void (*const work)(const product *, const block *) = p->form == FINITE ? finite_panel
                                                         : p->form == BYTES ? (p->skip ? sparse_bytes : dense_bytes)
                                                         : p->split         ? sparse_split
                                                         : p->skip          ? sparse_words
                                                                            : dense_words;
    const size_t spans = sppim_ceil_div(p->w->groups, p->span), group = index % spans * p->span;
    const size_t last = sppim_smaller(p->w->groups, group + p->span) * SPPIM_GROUP;
    block t = {.first = index / spans * p->block_rows, .column = group * SPPIM_GROUP, .scratch = &p->scratch[worker->id]};
    t.rows = sppim_smaller(p->block_rows, p->m - t.first);
    t.width = p->skip && p->form != FINITE ? last - t.column : SPPIM_PANEL;
    t.slot = prepares_itself(p) ? (size_t)worker->id * p->block_rows : t.first;
    for (size_t r = 0; prepares_itself(p) && r < t.rows; r++)
        list_row(p, t.first + r, t.slot + r);
    for (; t.column < sppim_smaller(last, p->w->n); t.column += t.width)
        work(p, &t);
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
    const bool ready = p->skip ? prepares_itself(p) : p->in_place;
    if ((!ready && !sppim_pool_run(p->engine->pool, operand_task, p, sppim_ceil_div(p->m, BLOCK_ROWS))) ||
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
