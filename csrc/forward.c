/* FP of a layer (A5): facts about its inputs, lists of their non-zeros, products, activations. */
#include "job.h"

#include <string.h>

#include "fixed.h"

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
    uint8_t bits = 0;
    for (size_t b = first_image(j, index); b < last_image(j, index); b++)
        j->flight->input_nonzeros[j->l * j->flight->n + b] =
            (uint32_t)j->network->kernels->census_s8(j->flight->x[j->l] + b * ld, ld, &bits);
    if (bits > 127)
        atomic_store_explicit(&j->flight->negative, true, memory_order_relaxed);
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

/* ---- lists of non-zeros, 16-bit copies, starts --------------------------------------------------------------- */

static void list_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_list *list = &j->network->work.list;
    const int flip = j->layer->bytes ? sppim_input_flip(j->flight, j->l) : SPPIM_UNSIGNED; /* words keep their signs */
    for (size_t b = first_image(j, index); b < last_image(j, index); b++) {
        const size_t at = b * list->ld;
        const sppim_nonzeros x = sppim_list_s8(j->network->kernels, j->flight->x[j->l] + b * sppim_input_ld(j->layer),
                                               j->layer->k, flip, list->index + at, list->value + at);
        list->negatives[b] = (uint32_t)x.negatives;
        list->count[b] = (uint32_t)x.count;
        for (size_t i = 0; !j->layer->bytes && i < x.count; i++)
            list->value16[at + i] = (int8_t)x.value[i];
    }
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

/* S less what signed operands add as unsigned ones: 128 times the rows of V that the product meets. */
static void signed_start_task(void *context, size_t panel, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    int32_t excess[SPPIM_PANEL];
    j->network->kernels->product_s8(j->network->work.zeros, 0, 1, sppim_ceil_div(layer->k, 4), SPPIM_SIGNED,
                                    layer->now.quads + panel * layer->depth * SPPIM_PANEL, (sppim_start){0}, excess, 0,
                                    SPPIM_LANES);
    for (size_t i = 0; i < SPPIM_PANEL; i++) {
        const size_t lane = panel * SPPIM_PANEL + i;
        j->network->work.signed_start[lane] = (int32_t)((uint32_t)layer->now.start_lanes[lane] - (uint32_t)excess[i]);
    }
}

/* Brings the inputs, and the weights, into the form that the product wants. */
static bool prepare(sppim_job *j)
{
    const size_t tasks = sppim_ceil_div(j->flight->n, j->rows);
    if (!j->layer->fp_finite && !sppim_layer_repack(j->network, j->l, j->skip))
        return false;
    if (j->skip)
        return sppim_pool_run(j->network->pool, list_task, j, tasks);
    if (!j->layer->bytes)
        return sppim_pool_run(j->network->pool, widen_task, j, tasks);
    return !sppim_input_flip(j->flight, j->l) || sppim_pool_run(j->network->pool, signed_start_task, j, j->layer->panels);
}

/* ---- products of a block of images with some columns ----------------------------------------------------------- */

typedef struct block {
    size_t first, rows;    /* images */
    size_t column, width;  /* whole groups; the last one may lack a panel */
    size_t panels;
    sppim_scratch *scratch;
} block;

static sppim_nonzeros listed(const sppim_job *j, size_t b)
{
    const sppim_list *list = &j->network->work.list;
    const size_t at = b * list->ld;
    return (sppim_nonzeros){.index = list->index + at, .value = list->value + at,
                            .value16 = list->value16 ? list->value16 + at : NULL, .negatives = list->negatives[b],
                            .count = list->count[b]};
}

static const int8_t *inputs(const sppim_job *j, const block *t)
{
    return j->flight->x[j->l] + t->first * sppim_input_ld(j->layer);
}

/* Sums of 8-bit products by lane, into scratch->sums. */
static void multiply_bytes(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    const int flip = sppim_input_flip(j->flight, j->l);
    const int32_t *start = flip ? j->network->work.signed_start : layer->now.start_lanes;
    for (size_t p = 0; p < t->panels; p++) {
        const size_t column = t->column + p * SPPIM_PANEL;
        j->network->kernels->product_s8(inputs(j, t), sppim_input_ld(layer), t->rows, sppim_ceil_div(layer->k, 4), flip,
                                        layer->now.quads + column * layer->depth, (sppim_start){start + column, NULL},
                                        t->scratch->sums + p * SPPIM_PANEL, t->width, SPPIM_LANES);
    }
}

static void skip_bytes(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    for (size_t r = 0; r < t->rows; r++)
        j->network->kernels->product_sparse_s8(listed(j, t->first + r), layer->now.rows + t->column * layer->depth,
                                               layer->depth * SPPIM_GROUP, t->width / SPPIM_GROUP,
                                               (sppim_start){layer->now.start_lanes + t->column, NULL},
                                               t->scratch->sums + r * t->width, SPPIM_LANES);
}

/* Sums of 16-bit products by column, start included, into scratch->wide. */
static void multiply_words(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    const size_t ld = sppim_input_ld(layer);
    for (size_t p = 0; p < t->panels; p++) {
        const size_t column = t->column + p * SPPIM_PANEL;
        sppim_product_words(j->network->kernels, j->network->work.x16 + t->first * ld, ld, t->rows,
                            sppim_ceil_div(layer->k, 2), sppim_exact_steps(layer),
                            layer->now.pairs + column * layer->depth, 0, layer->now.start + column,
                            t->scratch->wide + p * SPPIM_PANEL, t->width);
    }
}

static void skip_words(const sppim_job *j, const block *t)
{
    const sppim_layer *layer = j->layer;
    for (size_t r = 0; r < t->rows; r++)
        sppim_product_sparse_words(j->network->kernels, listed(j, t->first + r), sppim_exact_steps(layer),
                                   layer->now.words + t->column * layer->depth, layer->depth * SPPIM_GROUP,
                                   t->width / SPPIM_GROUP, layer->now.start + t->column, t->scratch->wide + r * t->width);
}

/* A5.4 with an accumulator that may overflow. */
static void multiply_finite(const sppim_job *j, const block *t)
{
    const sppim_accumulator accumulator = j->layer->config.fp_accumulator;
    uint64_t changed = 0;
    for (size_t p = 0; p < t->panels; p++)
        for (size_t r = 0; r < t->rows; r++) {
            const size_t column = t->column + p * SPPIM_PANEL;
            int64_t *wide = t->scratch->wide + r * t->width + p * SPPIM_PANEL;
            int32_t sums[SPPIM_PANEL];
            for (size_t c = 0; c < SPPIM_PANEL; c++) {
                const int64_t start = j->layer->now.start[column + c], fitted = sppim_fit1(start, accumulator);
                changed += fitted != start;
                sums[sppim_column_lane(c)] = (int32_t)fitted;
            }
            changed += j->network->kernels->product_finite_s16(
                listed(j, t->first + r), j->layer->now.pairs + column * j->layer->depth, accumulator, sums);
            for (size_t c = 0; c < SPPIM_PANEL; c++)
                wide[c] = sums[sppim_column_lane(c)];
        }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACC, changed);
}

/* ---- results of a block ----------------------------------------------------------------------------------------- */

static bool finish_from_sums(const sppim_job *j)
{
    const sppim_layer_config *c = &j->layer->config;
    return j->layer->bytes && !j->layer->place.output && c->fp_round == SPPIM_RNU && c->fp_shift <= 31;
}

static void sums_to_wide(const block *t)
{
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->panels * SPPIM_PANEL; c++)
            t->scratch->wide[r * t->width + c] = t->scratch->sums[r * t->width + sppim_lane_of(c)];
}

static void finish_scores(const sppim_job *j, const block *t)
{
    const size_t n = j->layer->n;
    for (size_t r = 0; r < t->rows; r++)
        memcpy(j->flight->scores + (t->first + r) * n + t->column, t->scratch->wide + r * t->width,
               sppim_smaller(t->width, n - t->column) * sizeof *j->flight->scores);
}

static void finish_activations(const sppim_job *j, const block *t)
{
    const sppim_layer_config *c = &j->layer->config;
    const sppim_kernels *kernels = j->network->kernels;
    size_t saturated = 0;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t p = 0; p < t->panels; p++) {
            const size_t at = r * t->width + p * SPPIM_PANEL;
            int8_t *y = j->flight->x[j->l + 1] + (t->first + r) * j->layer->ld + t->column + p * SPPIM_PANEL;
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
    const size_t spans = sppim_ceil_div(layer->groups, j->span), group = index % spans * j->span;
    block t = {.first = index / spans * j->rows, .column = group * SPPIM_GROUP,
               .scratch = &j->network->scratch[worker->id]};
    t.rows = sppim_smaller(j->rows, j->flight->n - t.first);
    t.width = sppim_smaller(j->span, layer->groups - group) * SPPIM_GROUP;
    t.panels = sppim_smaller(t.width / SPPIM_PANEL, layer->panels - 2 * group);
    if (layer->bytes) {
        (j->skip ? skip_bytes : multiply_bytes)(j, &t);
        if (!finish_from_sums(j))
            sums_to_wide(&t);
    } else {
        (layer->fp_finite ? multiply_finite : j->skip ? skip_words : multiply_words)(j, &t);
    }
    (layer->place.output ? finish_scores : finish_activations)(j, &t);
}

/* ---- the phase --------------------------------------------------------------------------------------------------- */

static uint64_t input_nonzeros(const sppim_job *j)
{
    uint64_t total = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        total += j->flight->input_nonzeros[j->l * j->flight->n + b];
    return total;
}

/* Zero product weights that non-zero operands meet, the fold's included (C2). */
static uint64_t count_gated(const uint32_t *restrict nonzeros, const int8_t *restrict m,
                            const uint32_t *restrict row_zeros, size_t k, bool folded)
{
    uint64_t gated = 0;
    for (size_t i = 0; i < k; i++)
        gated += (uint64_t)nonzeros[i] * row_zeros[i];
    for (size_t i = 0; folded && i < k; i++)
        gated += m[i] ? row_zeros[i] : 0;
    return gated;
}

static void count_forward(const sppim_job *j)
{
    sppim_layer *layer = j->layer;
    const sppim_state *now = &layer->now;
    uint8_t bits = 0;
    const size_t fold = j->network->kernels->census_s8(now->m, layer->k, &bits);
    const uint64_t gated = count_gated(layer->column_nonzeros, now->m, now->row_zeros, layer->k, fold);
    const sppim_forward_facts facts = {.images = j->flight->n, .operand_nonzeros = input_nonzeros(j),
                                       .fold_nonzeros = 1 + fold, .weight_gated = now->row_zeros[layer->k] + gated};
    sppim_count_forward(&layer->shape, &facts, &layer->delta);
}

static bool choose_skipping(const sppim_job *j)
{
    if (j->layer->fp_finite)
        return true;
    if (j->network->config.path != SPPIM_PATH_AUTO)
        return j->network->config.path == SPPIM_PATH_SPARSE;
    return sppim_product_skips(j->layer->bytes ? SPPIM_S8_BY_S8 : SPPIM_S16_BY_S16, j->flight->n, j->layer->panels,
                               (uint64_t)j->flight->n * j->layer->k, input_nonzeros(j));
}

bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = input_job(network, l, flight);
    const bool counted = flight != &network->evaluation; /* A8.5: inference counts nothing */
    j.skip = choose_skipping(&j);
    j.span = j.skip && !layer->fp_finite ? sppim_list_span(layer->depth, layer->bytes ? 1 : sizeof(int16_t)) : 1;
    if ((counted && !tally_columns(j)) || !prepare(&j))
        return false;
    if (counted)
        layer->skipping = j.skip; /* its layout is there now: an interruption leaves no promise behind */
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
