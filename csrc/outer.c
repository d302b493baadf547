/* g = transpose(x) d (A11.2): a product whose operands are the columns of x, whose weights are the rows of d. Rows
 * without an error are left out. */
#include <string.h>

#include "fixed.h"
#include "matrix.h"

#define TASK_COLUMNS ((size_t)256)
#define TASK_ROWS    ((size_t)96)
#define POLL_MACS    ((size_t)1 << 20)

typedef struct outer {
    sppim_engine *engine;
    const int8_t *x, *d;
    size_t b, k, n;
    int32_t *g;
    bool skip;
    int flip;                 /* whether x has negative values */
    size_t images, depth;     /* images with an error, rounded up to depth */
    size_t columns_ld;
    struct facts {            /* of an image */
        uint32_t nonzeros;    /* of its inputs */
        uint8_t bits;         /* of all of them */
        bool erring;
    } *facts;                 /* [b] */
    uint16_t *active;
    int8_t *last_x, *last_d;  /* [b][SPPIM_GROUP] the last groups of columns, padded */
    int8_t *columns;          /* [k rounded up to 64][columns_ld] */
    int8_t *quads, *rows;     /* d as weights, in one of the two */
    int32_t *signed_start;    /* [n rounded up to 64], by panel and lane (SPPIM_SIGNED) */
    struct scratch {
        int32_t *sums;        /* [TASK_ROWS][SPPIM_PANEL] or [TASK_COLUMNS] */
        uint16_t *index;
        uint8_t *value;
    } *scratch;
} outer;

static void lay_out(outer *o, sppim_arena *arena)
{
    const size_t inputs = sppim_round_up(o->k, SPPIM_GROUP), outputs = sppim_round_up(o->n, SPPIM_GROUP);
    const size_t errors = sppim_round_up(o->b, SPPIM_DEPTH) * outputs;
    SPPIM_PIECE(arena, o->facts, o->b);
    SPPIM_PIECE(arena, o->active, o->b);
    SPPIM_PIECE(arena, o->last_x, o->b * SPPIM_GROUP);
    SPPIM_PIECE(arena, o->last_d, o->b * SPPIM_GROUP);
    SPPIM_PIECE(arena, o->columns, inputs * o->columns_ld);
    SPPIM_PIECE(arena, o->rows, errors);
    SPPIM_PIECE(arena, o->quads, errors);
    SPPIM_PIECE(arena, o->signed_start, outputs);
    SPPIM_PIECE(arena, o->scratch, o->engine->threads);
    for (size_t i = 0; i < o->engine->threads; i++) {
        struct scratch s;
        SPPIM_PIECE(arena, s.sums, sppim_larger(TASK_COLUMNS, TASK_ROWS * SPPIM_PANEL));
        SPPIM_PIECE(arena, s.index, o->b + 2 * SPPIM_DEPTH + SPPIM_GROUP);
        SPPIM_PIECE(arena, s.value, o->b + 2 * SPPIM_DEPTH + SPPIM_GROUP);
        if (arena->base)
            o->scratch[i] = s;
    }
}

/* ---- preparation ------------------------------------------------------------------------------------------------- */

/* 64 columns of a matrix, with zeros where it has fewer. */
typedef struct columns {
    const int8_t *data;
    size_t ld;
} columns;

static columns group_of(const int8_t *matrix, size_t rows, size_t width, size_t group, int8_t *padded)
{
    const size_t first = group * SPPIM_GROUP;
    if (first + SPPIM_GROUP <= width)
        return (columns){matrix + first, width};
    for (size_t r = 0; r < rows; r++) {
        memcpy(padded + r * SPPIM_GROUP, matrix + r * width + first, width - first);
        memset(padded + r * SPPIM_GROUP + (width - first), 0, SPPIM_GROUP - (width - first));
    }
    return (columns){padded, SPPIM_GROUP};
}

#define SURVEY_ROWS ((size_t)64)

static void survey_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const outer *o = context;
    const size_t first = index * SURVEY_ROWS, last = sppim_smaller(o->b, first + SURVEY_ROWS);
    for (size_t b = first; b < last; b++) {
        uint8_t unused = 0;
        o->facts[b] = (struct facts){.erring = o->engine->kernels->census_s8(o->d + b * o->n, o->n, &unused)};
        if (o->facts[b].erring)
            o->facts[b].nonzeros = (uint32_t)o->engine->kernels->census_s8(o->x + b * o->k, o->k, &o->facts[b].bits);
    }
}

/* The images that count, and which way to go. */
static void choose(outer *o, int32_t path)
{
    uint8_t bits = 0;
    uint64_t nonzeros = 0;
    o->images = 0;
    for (size_t b = 0; b < o->b; b++)
        if (o->facts[b].erring) {
            o->active[o->images++] = (uint16_t)b;
            nonzeros += o->facts[b].nonzeros;
            bits |= o->facts[b].bits;
        }
    o->skip = path == SPPIM_PATH_AUTO ? sppim_gradient_skips(sppim_ceil_div(o->n, SPPIM_PANEL), o->images, o->k, nonzeros)
                                      : path == SPPIM_PATH_SPARSE;
    o->flip = bits > 127 ? SPPIM_SIGNED : SPPIM_UNSIGNED;
    o->depth = sppim_round_up(o->images, SPPIM_DEPTH);
}

static void prepare_errors(const outer *o, size_t group)
{
    const columns d = group_of(o->d, o->b, o->n, group, o->last_d);
    const size_t at = group * SPPIM_GROUP * o->depth;
    o->engine->kernels->pack_s8(d.data, o->active, o->images, d.ld, o->skip ? NULL : o->quads + at, o->depth * SPPIM_PANEL,
                                o->skip ? o->rows + at : NULL);
    if (!o->flip || o->skip)
        return;
    int32_t sum[SPPIM_GROUP] = {0};
    uint32_t nonzeros[SPPIM_GROUP] = {0};
    for (size_t b = 0; b < o->b; b += 255)
        o->engine->kernels->tally_s8(d.data + b * d.ld, sppim_smaller(255, o->b - b), d.ld, SPPIM_GROUP, sum, nonzeros);
    for (size_t c = 0; c < SPPIM_GROUP; c++)
        o->signed_start[group * SPPIM_GROUP + sppim_lane_of(c)] = -SPPIM_SIGNED * sum[c];
}

static void prepare_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const outer *o = context;
    const size_t groups = sppim_ceil_div(o->n, SPPIM_GROUP);
    if (index < groups) {
        prepare_errors(o, index);
        return;
    }
    const columns x = group_of(o->x, o->b, o->k, index - groups, o->last_x);
    o->engine->kernels->transpose_s8(x.data, o->active, o->images, x.ld, SPPIM_GROUP,
                                     o->columns + (index - groups) * SPPIM_GROUP * o->columns_ld, o->columns_ld);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

static void dense(const outer *o, size_t row, size_t rows, size_t column, size_t columns, struct scratch *s)
{
    for (size_t c = column; c < column + columns; c += SPPIM_PANEL) {
        const bool whole = c + SPPIM_PANEL <= o->n;
        int32_t *to = o->g + row * o->n + c;
        o->engine->kernels->product_s8(o->columns + row * o->columns_ld, o->columns_ld, rows, o->depth / 4, o->flip,
                                       o->quads + c * o->depth,
                                       (sppim_start){o->flip ? o->signed_start + c : NULL, NULL},
                                       whole ? to : s->sums, whole ? o->n : SPPIM_PANEL, SPPIM_COLUMNS);
        for (size_t r = 0; !whole && r < rows; r++)
            memcpy(to + r * o->n, s->sums + r * SPPIM_PANEL, (o->n - c) * sizeof *to);
    }
}

static void sparse_row(const outer *o, size_t k, size_t column, size_t columns, struct scratch *s)
{
    const size_t groups = sppim_ceil_div(columns, SPPIM_GROUP);
    const bool whole = columns % SPPIM_GROUP == 0;
    int32_t *to = o->g + k * o->n + column;
    const sppim_nonzeros x = sppim_list_s8(o->engine->kernels, o->columns + k * o->columns_ld, o->images, o->flip, s->index,
                                           s->value);
    o->engine->kernels->product_sparse_s8(x, o->rows + column * o->depth, o->depth * SPPIM_GROUP, groups, (sppim_start){0},
                                          whole ? to : s->sums, SPPIM_COLUMNS);
    if (!whole)
        memcpy(to, s->sums, columns * sizeof *to);
}

static void outer_task(void *context, size_t index, sppim_worker *worker)
{
    const outer *o = context;
    const size_t tasks = sppim_ceil_div(o->n, TASK_COLUMNS), column = index % tasks * TASK_COLUMNS;
    const size_t columns = sppim_smaller(TASK_COLUMNS, o->n - column);
    const size_t row = index / tasks * TASK_ROWS, last = sppim_smaller(o->k, row + TASK_ROWS);
    struct scratch *s = &o->scratch[worker->id];
    const size_t rows = sppim_larger(1, POLL_MACS / (sppim_larger(1, o->images) * TASK_COLUMNS)); /* between two polls */
    if (!o->skip)
        dense(o, row, last - row, column, columns, s);
    for (size_t k = row; o->skip && k < last && ((k - row) % rows || !sppim_worker_stop(worker)); k++)
        sparse_row(o, k, column, columns, s);
}

static sppim_status multiply(outer *o, int32_t path)
{
    sppim_arena arena = {0};
    lay_out(o, &arena);
    arena = (sppim_arena){sppim_engine_memory(o->engine, arena.used), 0};
    if (!arena.base)
        return SPPIM_ERROR_MEMORY;
    lay_out(o, &arena);
    if (!sppim_pool_run(o->engine->pool, survey_task, o, sppim_ceil_div(o->b, SURVEY_ROWS)))
        return SPPIM_ERROR_INTERRUPTED;
    choose(o, path);
    const size_t tasks = sppim_ceil_div(o->k, TASK_ROWS) * sppim_ceil_div(o->n, TASK_COLUMNS);
    const bool finished =
        sppim_pool_run(o->engine->pool, prepare_task, o,
                       sppim_ceil_div(o->n, SPPIM_GROUP) + sppim_ceil_div(o->k, SPPIM_GROUP)) &&
        sppim_pool_run(o->engine->pool, outer_task, o, tasks);
    return finished ? SPPIM_OK : SPPIM_ERROR_INTERRUPTED;
}

sppim_status sppim_gradient(sppim_engine *engine, const int8_t *x, const int8_t *d, size_t b, size_t k, size_t n,
                            int32_t path, sppim_poll poll, void *user, int32_t *g)
{
    if (!engine || (k && n && !g) || (b && ((k && !x) || (n && !d))))
        return SPPIM_ERROR_NULL;
    if (!sppim_path_valid(path))
        return SPPIM_ERROR_RANGE;
    if (b > 65535 || k > 65535 || n > 65535)
        return SPPIM_ERROR_SHAPE;
    if (!k || !n)
        return SPPIM_OK;
    if (atomic_flag_test_and_set(&engine->busy))
        return SPPIM_ERROR_BUSY;
    sppim_pool_set_poll(engine->pool, poll, user);
    outer o = {.engine = engine, .x = x, .d = d, .b = b, .k = k, .n = n, .g = g};
    o.columns_ld = sppim_round_up(b, SPPIM_GROUP);
    const sppim_status status = multiply(&o, path);
    atomic_flag_clear(&engine->busy);
    return status;
}
