/* FP of a layer (A5): facts about its inputs, lists of their non-zeros, products, activations. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* Rows of weights that stay in the first-level cache while all images meet them. */
#define BLOCK_ROWS_BYTES 448
#define BLOCK_ROWS_PAIRS 256

/* Groups of columns that one reading of a list serves, where so many rows of them stay in the second-level cache. */
#define SPAN      ((size_t)4)
#define SPAN_ROWS 2048

/* Density of non-zeros, in percent, below which skipping beats the dense product (docs/kernels.md). */
#define CROSSOVER_BYTES 37
#define CROSSOVER_PAIRS 15
#define CROSSOVER_PAIRS_FEW 45 /* fewer than FEW_IMAGES, which hardly share the weights that they load */
#define FEW_IMAGES 4

/* ---- inputs ------------------------------------------------------------------------------------------------ */

static size_t first_image(const sppim_job *j, size_t index) { return index * j->rows; }
static size_t last_image(const sppim_job *j, size_t index)
{
    return sppim_smaller(j->flight->n, (index + 1) * j->rows);
}

static void survey_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const size_t ld = sppim_input_ld(j->layer);
    for (size_t b = first_image(j, index); b < last_image(j, index); b++) {
        int32_t sum;
        j->flight->input_nonzeros[j->l * j->flight->n + b] =
            (uint32_t)j->network->kernels->census_s8(j->flight->x[j->l] + b * ld, ld, &sum);
        j->flight->x_shift[j->l][b] = -SPPIM_OFFSET * sum;
    }
}

static sppim_job input_job(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    return (sppim_job){.network = network, .layer = layer, .l = l, .flight = flight,
                       .rows = sppim_at_least_one(SPPIM_TASK_MACS / sppim_input_ld(layer))};
}

bool sppim_survey_inputs(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_job j = input_job(network, l, flight);
    return sppim_pool_run(network->pool, survey_task, &j, sppim_ceil_div(flight->n, j.rows));
}

/* Sums and non-zeros of some columns of inputs over the batch. */
static void tally_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const size_t ld = sppim_input_ld(j->layer), first = index * j->rows;
    const size_t columns = sppim_smaller(j->rows, ld - first);
    int32_t *sum = j->flight->x_sum[j->l] + first;
    uint32_t *nonzeros = j->layer->column_nonzeros + first;
    memset(sum, 0, columns * sizeof *sum);
    memset(nonzeros, 0, columns * sizeof *nonzeros);
    for (size_t b = 0; b < j->flight->n && !sppim_worker_stop(worker); b += 255)
        j->network->kernels->tally_s8(j->flight->x[j->l] + b * ld + first, sppim_smaller(255, j->flight->n - b), ld,
                                      columns, sum, nonzeros);
}

static bool tally_columns(sppim_job j)
{
    const size_t ld = sppim_input_ld(j.layer);
    j.rows = sppim_round_up(sppim_smaller(ld, 2048), SPPIM_GROUP); /* columns here */
    return sppim_pool_run(j.network->pool, tally_task, &j, sppim_ceil_div(ld, j.rows));
}

/* ---- lists of non-zeros, 16-bit copies ---------------------------------------------------------------------- */

static void list_image(const sppim_job *j, size_t b)
{
    const sppim_kernels *kernels = j->network->kernels;
    const sppim_list *list = &j->network->work.list;
    const size_t k = j->layer->k;
    const int8_t *x = j->flight->x[j->l] + b * sppim_input_ld(j->layer);
    uint32_t *offset = list->offset + b * (list->blocks + 1);
    size_t found = 0;
    for (size_t i = 0; i < list->blocks; i++) {
        const size_t base = i * list->block, at = b * list->ld + found;
        offset[i] = (uint32_t)found;
        found += kernels->compress_s8(x + base, sppim_smaller(list->block, k - base), base, list->index + at,
                                      list->value + at);
        found = sppim_pad_nonzeros(list->index + b * list->ld, list->value + b * list->ld, found, base);
    }
    offset[list->blocks] = (uint32_t)found;
    if (!j->layer->bytes)
        for (size_t i = 0; i < found; i++)
            list->value16[b * list->ld + i] = list->value[b * list->ld + i];
}

static void list_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    for (size_t b = first_image(j, index); b < last_image(j, index); b++)
        list_image(j, b);
}

static void widen_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const size_t ld = sppim_input_ld(j->layer);
    const int8_t *x = j->flight->x[j->l];
    for (size_t i = first_image(j, index) * ld; i < last_image(j, index) * ld; i++)
        j->network->work.x16[i] = x[i];
}

/* Brings the inputs, and the weights, into the form that the product wants. */
static bool prepare(sppim_job *j)
{
    sppim_list *list = &j->network->work.list;
    const size_t tasks = sppim_ceil_div(j->flight->n, j->rows), k = j->layer->k;
    if (j->layer->bytes && !sppim_layer_repack(j->network, j->l, j->skip))
        return false;
    if (!j->skip)
        return j->layer->bytes || sppim_pool_run(j->network->pool, widen_task, j, tasks);
    const size_t most = j->layer->fp_finite || j->span > 1 ? k : j->layer->bytes ? BLOCK_ROWS_BYTES : BLOCK_ROWS_PAIRS;
    list->block = sppim_round_up(sppim_ceil_div(k, sppim_ceil_div(k, most)), SPPIM_GROUP);
    list->blocks = sppim_ceil_div(k, list->block);
    return sppim_pool_run(j->network->pool, list_task, j, tasks);
}

/* ---- products of a block of images with a group of columns ---------------------------------------------------- */

typedef struct block {
    size_t first, rows;    /* images */
    size_t group, panels;  /* first group; panels of this and the others of the span */
    size_t width;          /* distance of two rows of sums */
    sppim_scratch *scratch;
} block;

static const int16_t *panel_pairs(const sppim_layer *layer, size_t panel)
{
    return layer->now.pairs + panel * layer->depth * SPPIM_PANEL;
}

static sppim_nonzeros listed(const sppim_list *list, size_t b, size_t block)
{
    const uint32_t *offset = list->offset + b * (list->blocks + 1) + block;
    const size_t at = b * list->ld + offset[0];
    return (sppim_nonzeros){.index = list->index + at, .value = list->value + at, .value16 = list->value16 + at,
                            .count = offset[1] - offset[0]};
}

/* Sums of 8-bit products by lane, into scratch->sums. */
static void multiply_bytes(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    const size_t ld = sppim_input_ld(layer);
    const int32_t *shift = j->flight->x_shift[j->l] + t->first;
    for (size_t p = 0; p < t->panels; p++) {
        const size_t panel = 2 * t->group + p;
        j->network->kernels->product_s8(j->flight->x[j->l] + t->first * ld, ld, t->rows, sppim_ceil_div(layer->k, 4),
                                        layer->now.quads + panel * layer->depth * SPPIM_PANEL,
                                        (sppim_start){layer->now.start_lanes + panel * SPPIM_PANEL, NULL, shift},
                                        t->scratch->sums + p * SPPIM_PANEL, SPPIM_GROUP, SPPIM_LANES);
    }
}

static void skip_bytes(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    const sppim_list *list = &j->network->work.list;
    const int32_t *start = layer->now.start_lanes + t->group * SPPIM_GROUP;
    const size_t stride = layer->depth * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->panels * SPPIM_PANEL; c++)
            t->scratch->sums[r * t->width + c] = start[c] + j->flight->x_shift[j->l][t->first + r];
    for (size_t i = 0; i < list->blocks; i++)
        for (size_t r = 0; r < t->rows; r++)
            j->network->kernels->product_sparse_s8(listed(list, t->first + r, i), layer->now.rows + t->group * stride, stride,
                                                   sppim_ceil_div(t->panels, 2), t->scratch->sums + r * t->width, NULL);
}

/* Sums of 16-bit products by column, start included, into scratch->wide. */
static void multiply_pairs(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    const sppim_kernels *kernels = j->network->kernels;
    const size_t ld = sppim_input_ld(layer), most = sppim_exact_steps(layer), steps = sppim_ceil_div(layer->k, 2);
    for (size_t step = 0; step < steps; step += most) {
        for (size_t p = 0; p < t->panels; p++)
            kernels->product_s16(j->network->work.x16 + t->first * ld + 2 * step, ld, t->rows,
                                 sppim_smaller(most, steps - step),
                                 panel_pairs(layer, 2 * t->group + p) + 2 * step * SPPIM_PANEL,
                                 t->scratch->sums + p * SPPIM_PANEL, SPPIM_GROUP, SPPIM_COLUMNS);
        kernels->widen_s32(t->scratch->sums, t->rows * SPPIM_GROUP, t->scratch->wide);
    }
}

#define TOGETHER ((size_t)4) /* neighbours among the lanes are so among the columns */

static void add_lanes(const int32_t *lanes, int64_t *columns)
{
    for (size_t c = 0; c < SPPIM_PANEL; c += TOGETHER)
        for (size_t i = 0; i < TOGETHER; i++)
            columns[c + i] += lanes[sppim_column_lane(c) + i];
}

/* The sums of some blocks of rows that are together exact. */
static void skip_exact(const sppim_job *j, const block *t, size_t first, size_t last)
{
    int32_t *sums = t->scratch->sums;
    memset(sums, 0, t->rows * SPPIM_GROUP * sizeof *sums);
    for (size_t p = 0; p < t->panels; p++) {
        const int16_t *pairs = panel_pairs(j->layer, 2 * t->group + p);
        for (size_t i = first; i < last; i++)
            for (size_t r = 0; r < t->rows; r++)
                j->network->kernels->product_sparse_s16(listed(&j->network->work.list, t->first + r, i), pairs,
                                                        sums + r * SPPIM_GROUP + p * SPPIM_PANEL);
    }
    j->network->kernels->columns_s32(sums, 2 * t->rows, sums);
    j->network->kernels->widen_s32(sums, t->rows * SPPIM_GROUP, t->scratch->wide);
}

static void skip_pairs(const sppim_job *j, const block *t)
{
    const sppim_list *list = &j->network->work.list;
    const size_t most = 2 * sppim_exact_steps(j->layer) / list->block; /* at least 2: BLOCK_ROWS_PAIRS */
    for (size_t i = 0; i < list->blocks; i += most)
        skip_exact(j, t, i, sppim_smaller(list->blocks, i + most));
}

/* A5.4 with an accumulator that may overflow. */
static void multiply_finite(const sppim_job *j, const block *t)
{
    const sppim_accumulator accumulator = j->layer->config.fp_accumulator;
    uint64_t changed = 0;
    for (size_t p = 0; p < t->panels; p++)
        for (size_t r = 0; r < t->rows; r++) {
            int64_t *wide = t->scratch->wide + r * SPPIM_GROUP + p * SPPIM_PANEL;
            int32_t sums[SPPIM_PANEL];
            for (size_t c = 0; c < SPPIM_PANEL; c++) {
                const int64_t fitted = sppim_fit1(wide[c], accumulator);
                changed += fitted != wide[c];
                sums[sppim_column_lane(c)] = (int32_t)fitted;
                wide[c] = 0;
            }
            changed += j->network->kernels->product_finite_s16(listed(&j->network->work.list, t->first + r, 0),
                                                               panel_pairs(j->layer, 2 * t->group + p), accumulator,
                                                               sums);
            add_lanes(sums, wide);
        }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACC, changed);
}

static void begin_wide(const sppim_job *j, const block *t)
{
    const int64_t *start = j->layer->now.start + t->group * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        memcpy(t->scratch->wide + r * SPPIM_GROUP, start, SPPIM_GROUP * sizeof *start);
}

/* ---- results of a block ----------------------------------------------------------------------------------------- */

static bool finish_from_sums(const sppim_job *j)
{
    const sppim_layer_config *c = &j->layer->config;
    return j->layer->bytes && !j->layer->place.output && c->fp_round == SPPIM_RNU && c->fp_shift <= 31;
}

static void sums_to_wide(const block *t)
{
    memset(t->scratch->wide, 0, t->rows * t->width * sizeof *t->scratch->wide);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t p = 0; p < t->panels; p++)
            add_lanes(t->scratch->sums + r * t->width + p * SPPIM_PANEL,
                      t->scratch->wide + r * t->width + p * SPPIM_PANEL);
}

static void finish_scores(const sppim_job *j, const block *t)
{
    const size_t n = j->layer->n, column = t->group * SPPIM_GROUP;
    for (size_t r = 0; r < t->rows; r++)
        memcpy(j->flight->scores + (t->first + r) * n + column, t->scratch->wide + r * t->width,
               sppim_smaller(t->width, n - column) * sizeof *j->flight->scores);
}

static void finish_activations(const sppim_job *j, const block *t)
{
    const sppim_layer_config *c = &j->layer->config;
    const sppim_kernels *kernels = j->network->kernels;
    size_t saturated = 0;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t p = 0; p < t->panels; p++) {
            const size_t at = r * t->width + p * SPPIM_PANEL;
            int8_t *y = j->flight->x[j->l + 1] + (t->first + r) * j->layer->ld + t->group * SPPIM_GROUP + p * SPPIM_PANEL;
            saturated += finish_from_sums(j)
                             ? kernels->requantize_relu_s32(t->scratch->sums + at, c->fp_shift, c->activation_max, y)
                             : kernels->requantize_relu_s64(t->scratch->wide + at, c->fp_shift, c->fp_round,
                                                            c->activation_max, y);
        }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACTIVATION, saturated);
}

static void forward_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t spans = sppim_ceil_div(layer->groups, j->span);
    block t = {.first = index / spans * j->rows, .group = index % spans * j->span, .width = j->span * SPPIM_GROUP,
               .scratch = &j->network->scratch[worker->id]};
    t.rows = sppim_smaller(j->rows, j->flight->n - t.first);
    t.panels = sppim_smaller(2 * j->span, layer->panels - 2 * t.group);
    if (layer->bytes) {
        (j->skip ? skip_bytes : multiply_bytes)(j, &t);
        if (!finish_from_sums(j))
            sums_to_wide(&t);
    } else {
        begin_wide(j, &t);
        (layer->fp_finite ? multiply_finite : j->skip ? skip_pairs : multiply_pairs)(j, &t);
    }
    (layer->place.output ? finish_scores : finish_activations)(j, &t);
}

/* ---- the phase ----------------------------------------------------------------------------------------------------- */

static uint64_t input_nonzeros(const sppim_job *j)
{
    uint64_t total = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        total += j->flight->input_nonzeros[j->l * j->flight->n + b];
    return total;
}

static void count_forward(const sppim_job *j)
{
    sppim_layer *layer = j->layer;
    sppim_forward_facts facts = {.images = j->flight->n, .operand_nonzeros = input_nonzeros(j), .fold_nonzeros = 1};
    facts.weight_gated = layer->now.row_zeros[layer->k];
    for (size_t k = 0; k < layer->k; k++) {
        const bool fold = layer->now.m[k] != 0;
        facts.fold_nonzeros += fold;
        facts.weight_gated += (uint64_t)(layer->column_nonzeros[k] + fold) * layer->now.row_zeros[k];
    }
    sppim_count_forward(&layer->shape, &facts, &layer->delta);
}

static bool choose_skipping(const sppim_job *j)
{
    if (j->layer->fp_finite)
        return true;
    const unsigned pairs = j->flight->n < FEW_IMAGES ? CROSSOVER_PAIRS_FEW : CROSSOVER_PAIRS;
    return sppim_skip_zeros(j->network->config.path, input_nonzeros(j), (uint64_t)j->flight->n * j->layer->k,
                            j->layer->bytes ? CROSSOVER_BYTES : pairs);
}

bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = input_job(network, l, flight);
    const bool counted = flight != &network->evaluation; /* A8.5: inference counts nothing */
    j.skip = choose_skipping(&j);
    j.span = j.skip && layer->bytes && layer->k <= SPAN_ROWS ? SPAN : 1;
    if (counted)
        layer->skipping = j.skip;
    if ((counted && !tally_columns(j)) || !prepare(&j))
        return false;
    j.rows = sppim_at_least_one(sppim_smaller(SPPIM_BLOCK_ROWS, SPPIM_TASK_MACS / (layer->k * SPPIM_GROUP)) / j.span);
    if (!sppim_pool_run(network->pool, forward_task, &j,
                        sppim_ceil_div(flight->n, j.rows) * sppim_ceil_div(layer->groups, j.span)))
        return false;
    if (!layer->place.output && !sppim_survey_inputs(network, l + 1, flight))
        return false;
    if (counted)
        count_forward(&j);
    return true;
}
