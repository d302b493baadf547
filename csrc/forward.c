/* FP of a layer (A5): facts about its inputs, lists of their non-zeros, products, activations. */
#include "block.h"

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
        j->flight->value_nonzeros[j->l * j->flight->n + b] =
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
    uint32_t *nonzeros = j->layer->value_nonzeros + first;
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

/* How often operands are not zero, from how often values are (A12.2). */
static void columns_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    sppim_layer *layer = j->layer;
    const sppim_window *window = &layer->config.window;
    sppim_count_columns(window, layer->down, layer->across, layer->value_nonzeros, layer->now.m, (uint32_t)j->flight->n,
                        index / (size_t)window->columns, index % (size_t)window->columns, layer->column_nonzeros);
}

static bool tally_operands(sppim_job *j)
{
    const sppim_window *window = &j->layer->config.window;
    return tally_columns(*j) && (!j->layer->windowed ||
                                 sppim_pool_run(j->network->pool, columns_task, j,
                                                (size_t)window->rows * (size_t)window->columns));
}

/* ---- lists of non-zeros, 16-bit copies, starts --------------------------------------------------------------- */

static void list_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    for (size_t b = first_image(j, index); b < last_image(j, index); b++)
        sppim_list_operands(j, j->flight->x[j->l] + b * sppim_input_ld(j->layer), &j->network->work.list, b);
}

static void widen_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const size_t ld = sppim_input_ld(j->layer), first = first_image(j, index), count = last_image(j, index) - first;
    sppim_widen(j->flight->x[j->l] + first * ld, count * ld, j->network->work.x16 + first * ld);
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

/* Brings the weights, and without a window the inputs, into the form that the product wants. */
static bool prepare(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const size_t tasks = sppim_ceil_div(j->flight->n, j->rows);
    if (!layer->fp_finite && !sppim_layer_repack(j->network, j->l, j->skip))
        return false;
    if (layer->bytes && !j->skip)
        return !sppim_input_flip(layer, j->flight) ||
               sppim_pool_run(j->network->pool, signed_start_task, j, layer->panels);
    return layer->windowed || sppim_pool_run(j->network->pool, j->skip ? list_task : widen_task, j, tasks);
}

/* ---- images as rows of operands ---------------------------------------------------------------------------------- */

static void forward_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t spans = sppim_ceil_div(layer->groups, j->span), first = index / spans * j->rows;
    const size_t ld = sppim_input_ld(layer);
    sppim_block t = {.job = j, .rows = sppim_smaller(j->rows, j->flight->n - first),
                     .x = j->flight->x[j->l] + first * ld, .x16 = layer->bytes ? NULL : j->network->work.x16 + first * ld, .ld = ld,
                     .list = &j->network->work.list, .first = first, .scratch = &j->network->scratch[worker->id]};
    sppim_block_columns(&t, index % spans * j->span);
    sppim_block_multiply(&t);
    if (layer->place.output)
        sppim_block_scores(&t, j->flight->scores + first * layer->n);
    else
        sppim_block_activations(&t, j->flight->x[j->l + 1] + first * layer->out_ld, layer->out_ld);
}

/* ---- a window moved over an image (A12) -------------------------------------------------------------------------- */

/* Operands of some positions of an image, in the form that the product wants. */
static void unfold_block(sppim_block *t, const int8_t *image, size_t position)
{
    const sppim_layer *layer = t->job->layer;
    sppim_scratch *s = t->scratch;
    sppim_unfold_positions(&layer->config.window, layer->across, image, layer->now.m, position, t->rows, s->operands,
                           layer->operand_ld);
    for (size_t r = 0; r < t->rows; r++) {
        int8_t *operands = s->operands + r * layer->operand_ld;
        memset(operands + layer->k, 0, layer->operand_ld - layer->k);
        if (t->job->skip)
            sppim_list_operands(t->job, operands, &s->list, r);
        else if (!layer->bytes)
            sppim_widen(operands, layer->operand_ld, s->operands16 + r * layer->operand_ld);
    }
}

/* Operands of an image that are not zero: pixels, as often as they are read, and means in the place of padding. */
static uint32_t count_operands(const sppim_job *j, const int8_t *image)
{
    const sppim_layer *layer = j->layer;
    const uint64_t taps = (uint64_t)layer->positions * (uint64_t)(layer->k / layer->channels);
    uint8_t bits = 0;
    return (uint32_t)(sppim_count_operands(j->network->kernels, &layer->config.window, &layer->uses, image) +
                      (taps - layer->uses.inside) *
                          j->network->kernels->census_s8(layer->now.m, layer->channels, &bits));
}

static void finish_image(const sppim_job *j, size_t b, const int8_t *activations)
{
    const sppim_layer *layer = j->layer;
    uint8_t *keep = j->flight->pooled[j->l];
    sppim_pool_image(&layer->pooling, layer->config.pooling, activations, layer->ld, layer->n,
                     j->flight->x[j->l + 1] + b * layer->out_ld, keep ? keep + b * layer->pooled_size : NULL);
}

static void window_task(void *context, size_t b, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const int8_t *image = j->flight->x[j->l] + b * sppim_input_ld(layer);
    sppim_scratch *s = &j->network->scratch[worker->id];
    sppim_block t = {.job = j, .x = s->operands, .x16 = s->operands16, .ld = layer->operand_ld, .list = &s->list,
                     .scratch = s};
    for (size_t first = 0; first < layer->positions && !sppim_worker_stop(worker); first += j->rows) {
        t.rows = sppim_smaller(j->rows, layer->positions - first);
        unfold_block(&t, image, first);
        for (size_t group = 0; group < layer->groups; group += j->span) {
            sppim_block_columns(&t, group);
            sppim_block_multiply(&t);
            if (layer->place.output)
                sppim_block_scores(&t, j->flight->scores + b * layer->n);
            else
                sppim_block_activations(&t, s->outputs + first * layer->ld, layer->ld);
        }
    }
    if (!layer->place.output)
        finish_image(j, b, s->outputs);
    if (j->flight != &j->network->evaluation)
        j->flight->input_nonzeros[j->l * j->flight->n + b] = count_operands(j, image);
}

/* ---- the phase --------------------------------------------------------------------------------------------------- */

static uint64_t total(const uint32_t *nonzeros, size_t n)
{
    uint64_t sum = 0;
    for (size_t b = 0; b < n; b++)
        sum += nonzeros[b];
    return sum;
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
    const size_t n = j->flight->n;
    const sppim_forward_facts facts = {.images = n, .operand_nonzeros = total(j->flight->input_nonzeros + j->l * n, n),
                                       .fold_nonzeros = 1 + fold, .weight_gated = now->row_zeros[layer->k] + gated};
    sppim_count_forward(&layer->shape, &facts, &layer->counted);
}

static bool choose_skipping(const sppim_job *j)
{
    const size_t n = j->flight->n;
    if (j->layer->fp_finite)
        return true;
    if (j->network->config.path != SPPIM_PATH_AUTO)
        return j->network->config.path == SPPIM_PATH_SPARSE;
    return sppim_product_skips(j->layer->bytes ? SPPIM_S8_BY_S8 : SPPIM_S16_BY_S16, n * j->layer->positions,
                               j->layer->panels, (uint64_t)n * j->layer->inputs,
                               total(j->flight->value_nonzeros + j->l * n, n));
}

/* The products: an image a task, or a block of images and a span of columns. */
static bool multiply(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const size_t n = j->flight->n;
    if (layer->windowed) {
        j->rows = SPPIM_BLOCK_ROWS / j->span;
        return sppim_pool_run(j->network->pool, window_task, j, n);
    }
    if (j->flight != &j->network->evaluation)
        memcpy(j->flight->input_nonzeros + j->l * n, j->flight->value_nonzeros + j->l * n, n * sizeof(uint32_t));
    j->rows = sppim_at_least_one(sppim_smaller(SPPIM_BLOCK_ROWS, SPPIM_TASK_MACS / (layer->k * SPPIM_GROUP)) / j->span);
    return sppim_pool_run(j->network->pool, forward_task, j,
                          sppim_ceil_div(n, j->rows) * sppim_ceil_div(layer->groups, j->span));
}

bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = input_job(network, l, flight);
    const bool counted = flight != &network->evaluation; /* A8.5: inference counts nothing */
    j.skip = choose_skipping(&j);
    j.span = j.skip && !layer->fp_finite ? sppim_list_span(layer->depth, layer->bytes ? 1 : sizeof(int16_t)) : 1;
    if ((counted && !tally_operands(&j)) || !prepare(&j))
        return false;
    if (counted)
        layer->skipping = j.skip; /* its layout is there now: an interruption leaves no promise behind */
    if (!multiply(&j) || (!layer->place.output && !sppim_survey_inputs(network, l + 1, flight)))
        return false;
    if (counted)
        count_forward(&j);
    return true;
}
