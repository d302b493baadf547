/* g = transpose(x) d (A11.2): a product whose operands are the columns of x, whose weights are the rows of d. Rows without an error
 * are left out. */
#include <string.h>

#include "fixed.h"
#include "matrix.h"

#define TASK_COLUMNS ((size_t)256)
#define TASK_ROWS    ((size_t)96)

typedef struct outer {
    sppim_engine *engine;
    const int8_t *x, *d;
    size_t b, k, n;
    int32_t *g;
    bool skip;
    size_t images, depth, x_ld, d_ld, column_ld; /* images with an error, rounded up to depth */
    int8_t *x_rows, *d_rows;  /* padded copies [b][ld] */
    int8_t *columns;          /* [k rounded up to 64][column_ld] */
    int32_t *shift;           /* [k] */
    uint16_t *active;
    uint8_t *quads, *rows;    /* d as weights */
    struct scratch {
        int32_t *sums;        /* [TASK_COLUMNS] or [TASK_ROWS][SPPIM_PANEL] */
        int32_t *columns;     /* [TASK_COLUMNS] */
        uint16_t *index;
        int8_t *value;
    } *scratch;
} outer;

static void lay_out(outer *o, sppim_arena *arena)
{
    const size_t inputs = sppim_round_up(o->k, SPPIM_GROUP), padded = sppim_round_up(o->b, SPPIM_DEPTH);
    SPPIM_PIECE(arena, o->x_rows, o->b * o->x_ld);
    SPPIM_PIECE(arena, o->d_rows, o->b * o->d_ld);
    SPPIM_PIECE(arena, o->columns, inputs * o->column_ld);
    SPPIM_PIECE(arena, o->shift, inputs);
    SPPIM_PIECE(arena, o->active, o->b);
    SPPIM_PIECE(arena, o->quads, padded * o->d_ld);
    SPPIM_PIECE(arena, o->rows, padded * o->d_ld);
    SPPIM_PIECE(arena, o->scratch, o->engine->threads);
    for (size_t i = 0; i < o->engine->threads; i++) {
        struct scratch s;
        SPPIM_PIECE(arena, s.sums, sppim_larger(TASK_COLUMNS, TASK_ROWS * SPPIM_PANEL));
        SPPIM_PIECE(arena, s.columns, TASK_COLUMNS);
        SPPIM_PIECE(arena, s.index, o->column_ld + SPPIM_GROUP);
        SPPIM_PIECE(arena, s.value, o->column_ld + SPPIM_GROUP);
        if (arena->base)
            o->scratch[i] = s;
    }
}

static void pad_rows(const int8_t *from, size_t rows, size_t width, size_t ld, int8_t *to)
{
    for (size_t r = 0; r < rows; r++) {
        memcpy(to + r * ld, from + r * width, width);
        memset(to + r * ld + width, 0, ld - width);
    }
}

/* Padded copies, and the images that count. */
static void begin(outer *o, int32_t path)
{
    const sppim_kernels *kernels = o->engine->kernels;
    int32_t sum;
    pad_rows(o->x, o->b, o->k, o->x_ld, o->x_rows);
    pad_rows(o->d, o->b, o->n, o->d_ld, o->d_rows);
    o->images = 0;
    for (size_t b = 0; b < o->b; b++)
        if (kernels->census_s8(o->d_rows + b * o->d_ld, o->d_ld, &sum))
            o->active[o->images++] = (uint16_t)b;
    o->depth = sppim_round_up(o->images, SPPIM_DEPTH);
    o->skip = path == SPPIM_PATH_SPARSE; /* on its own it never paid yet (docs/kernels.md) */
}

static void prepare_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const outer *o = context;
    const sppim_kernels *kernels = o->engine->kernels;
    const size_t groups = o->d_ld / SPPIM_GROUP;
    if (index < groups) {
        kernels->pack_s8(o->d_rows + index * SPPIM_GROUP, o->active, o->images, o->d_ld,
                         o->quads + 2 * index * o->depth * SPPIM_PANEL, o->depth * SPPIM_PANEL,
                         o->rows + index * o->depth * SPPIM_GROUP);
        return;
    }
    const size_t first = (index - groups) * SPPIM_GROUP;
    kernels->transpose_s8(o->x_rows + first, o->active, o->images, o->x_ld, SPPIM_GROUP, o->columns + first * o->column_ld,
                          o->column_ld);
    for (size_t k = first; k < first + SPPIM_GROUP; k++) {
        int32_t sum;
        kernels->census_s8(o->columns + k * o->column_ld, o->images, &sum);
        o->shift[k] = -SPPIM_OFFSET * sum;
    }
}

static void dense(const outer *o, size_t row, size_t rows, size_t column, size_t columns, struct scratch *s)
{
    for (size_t c = column; c < column + columns; c += SPPIM_PANEL) {
        const bool whole = c + SPPIM_PANEL <= o->n;
        int32_t *to = o->g + row * o->n + c;
        o->engine->kernels->product_s8(o->columns + row * o->column_ld, o->column_ld, rows, o->depth / 4,
                                       o->quads + c * o->depth, (sppim_start){.shift = o->shift + row},
                                       whole ? to : s->sums, whole ? o->n : SPPIM_PANEL, SPPIM_COLUMNS);
        for (size_t r = 0; !whole && r < rows; r++)
            memcpy(to + r * o->n, s->sums + r * SPPIM_PANEL, (o->n - c) * sizeof *to);
    }
}

static void sparse_row(const outer *o, size_t k, size_t column, size_t columns, struct scratch *s)
{
    const sppim_kernels *kernels = o->engine->kernels;
    const size_t groups = sppim_ceil_div(columns, SPPIM_GROUP), stride = o->depth * SPPIM_GROUP;
    size_t count = kernels->compress_s8(o->columns + k * o->column_ld, o->images, 0, s->index, s->value);
    count = sppim_pad_nonzeros(s->index, s->value, count, 0);
    for (size_t c = 0; c < groups * SPPIM_GROUP; c++)
        s->sums[c] = o->shift[k];
    kernels->product_sparse_s8((sppim_nonzeros){.index = s->index, .value = s->value, .count = count},
                               o->rows + column / SPPIM_GROUP * stride, stride, groups, s->sums, NULL);
    int32_t *to = o->g + k * o->n + column;
    if (columns % SPPIM_PANEL == 0) {
        kernels->columns_s32(s->sums, columns / SPPIM_PANEL, to);
    } else {
        kernels->columns_s32(s->sums, 2 * groups, s->columns);
        memcpy(to, s->columns, columns * sizeof *to);
    }
}

static void outer_task(void *context, size_t index, sppim_worker *worker)
{
    const outer *o = context;
    const size_t tasks = sppim_ceil_div(o->n, TASK_COLUMNS), column = index % tasks * TASK_COLUMNS;
    const size_t columns = sppim_smaller(TASK_COLUMNS, o->n - column);
    const size_t row = index / tasks * TASK_ROWS, last = sppim_smaller(o->k, row + TASK_ROWS);
    struct scratch *s = &o->scratch[worker->id];
    if (!o->skip)
        dense(o, row, last - row, column, columns, s);
    for (size_t k = row; o->skip && k < last && !sppim_worker_stop(worker); k++)
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
    begin(o, path);
    const size_t tasks = sppim_ceil_div(o->k, TASK_ROWS) * sppim_ceil_div(o->n, TASK_COLUMNS);
    const bool finished =
        sppim_pool_run(o->engine->pool, prepare_task, o, o->d_ld / SPPIM_GROUP + o->x_ld / SPPIM_GROUP) &&
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
    outer o = {.engine = engine, .x = x, .d = d, .b = b, .k = k, .n = n, .g = g, .x_ld = sppim_round_up(k, SPPIM_GROUP),
               .d_ld = sppim_round_up(n, SPPIM_GROUP), .column_ld = sppim_round_up(b + 1, SPPIM_GROUP)};
    const sppim_status status = multiply(&o, path);
    atomic_flag_clear(&engine->busy);
    return status;
}
