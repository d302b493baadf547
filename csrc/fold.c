/* What follows from weights and means: V (A5.2), m (A7.4), S (A5.3) and the zeros of V. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* ---- product weights ------------------------------------------------------------------------------------------ */

/* An update by nothing: writes the product weights of some rows of a panel in the layouts that the state is to have. */
static void pack_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t tasks = sppim_ceil_div(layer->depth, j->rows), first = index % tasks * j->rows;
    const size_t last = sppim_smaller(layer->depth, first + j->rows);
    const sppim_update nothing = {.shift = 16, .round = SPPIM_SR, .product_bits = layer->config.product_bits,
                                  .columns = layer->n, .narrow = true};
    int32_t *gradient = j->network->scratch[worker->id].gradient;
    memset(gradient, 0, SPPIM_DEPTH * SPPIM_PANEL * sizeof *gradient);
    for (size_t row = first; row < last; row += SPPIM_DEPTH)
        j->network->kernels->update_s16(&nothing, gradient, SPPIM_PANEL, SPPIM_DEPTH, 0,
                                        sppim_panel_rows(layer, j->state, j->state, row, index / tasks));
}

static bool pack_weights(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .state = &layer->now, .rows = 4096};
    return sppim_pool_run(network->pool, pack_task, &j, layer->panels * sppim_ceil_div(layer->depth, j.rows));
}

bool sppim_layer_repack(sppim_network *network, size_t l, bool skip)
{
    const sppim_layer *layer = &network->layers[l];
    sppim_state *now = &network->layers[l].now;
    if (!layer->bytes && !skip)
        return true;
    bool *has = !layer->bytes ? &now->has_words : skip ? &now->has_rows : &now->has_quads;
    if (*has)
        return true;
    *has = true;
    if (pack_weights(network, l))
        return true;
    *has = false;
    return false;
}

/* ---- S ----------------------------------------------------------------------------------------------------------- */

/* -S is the product of (m, -64), one more image, with the weights, the bias row included. */

/* As signed operands, less what a row of zeros gives as such. */
static void fold_quads(const sppim_job *j, size_t panel, int64_t *start)
{
    const sppim_layer *layer = j->layer;
    const int8_t *fold = j->network->work.fold;
    const size_t first = j->first;
    int32_t sums[2][SPPIM_PANEL];
    j->network->kernels->product_s8(fold + first, layer->depth, 2, (layer->depth - first) / 4, SPPIM_SIGNED,
                                    j->state->quads + (panel * layer->depth + first) * SPPIM_PANEL, (sppim_start){0},
                                    sums[0], SPPIM_PANEL, SPPIM_COLUMNS);
    for (size_t c = 0; c < SPPIM_PANEL; c++)
        start[c] = (int32_t)((uint32_t)sums[1][c] - (uint32_t)sums[0][c]);
}

static void fold_rows(const sppim_job *j, size_t group, int64_t *start)
{
    const sppim_layer *layer = j->layer;
    const sppim_list *list = &j->network->work.list;
    const sppim_nonzeros fold = {.index = list->index, .value = list->value, .negatives = list->negatives[0],
                                 .count = list->count[0]};
    int32_t sums[SPPIM_GROUP];
    j->network->kernels->product_sparse_s8(
        fold, j->state->rows + group * layer->depth * SPPIM_GROUP, 0, 1, (sppim_start){0}, sums, SPPIM_COLUMNS);
    for (size_t c = 0; c < SPPIM_GROUP; c++)
        start[c] = -(int64_t)sums[c];
}

static void fold_pairs(const sppim_job *j, size_t panel, int64_t *start)
{
    static const int64_t zeros[SPPIM_PANEL];
    const sppim_layer *layer = j->layer;
    sppim_product_words(j->network->kernels, j->network->work.fold16 + j->first, 0, 1, (layer->depth - j->first) / 2,
                        sppim_exact_steps(layer), j->state->pairs + (panel * layer->depth + j->first) * SPPIM_PANEL, 0,
                        zeros, start, 0);
}

static void fold_task(void *context, size_t group, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    int64_t *start = j->state->start + group * SPPIM_GROUP;
    if (j->layer->bytes && !j->state->has_quads)
        fold_rows(j, group, start);
    else
        for (size_t p = 2 * group; p < sppim_smaller(2 * group + 2, j->layer->panels); p++)
            (j->layer->bytes ? fold_quads : fold_pairs)(j, p, start + p % 2 * SPPIM_PANEL);
    for (size_t c = group * SPPIM_GROUP; c < (group + 1) * SPPIM_GROUP; c++)
        j->state->start_lanes[sppim_lane_of(c)] = (int32_t)j->state->start[c];
}

/* The operands of the fold, as its product wants them. Rows before the first that is not zero add nothing. */
static void prepare_fold(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    memset(work->fold, 0, 2 * layer->depth);
    memcpy(work->fold, j->state->m, layer->k);
    uint8_t bits = 0;
    j->network->kernels->census_s8(work->fold, layer->k, &bits);
    j->state->signed_means = bits > INT8_MAX;
    work->fold[layer->k] = -SPPIM_BIAS_INPUT;
    j->first = 0;
    while (!work->fold[j->first])
        j->first++;
    j->first -= j->first % SPPIM_DEPTH;
    for (size_t k = 0; !layer->bytes && k < layer->depth; k++)
        work->fold16[k] = (int16_t)-work->fold[k];
    if (layer->bytes && !j->state->has_quads) {
        const sppim_nonzeros x = sppim_list_s8(j->network->kernels, work->fold, layer->k + 1, SPPIM_SIGNED,
                                               work->list.index, work->list.value);
        work->list.negatives[0] = (uint32_t)x.negatives;
        work->list.count[0] = (uint32_t)x.count;
    }
}

/* ---- zeros of V -------------------------------------------------------------------------------------------------- */

static void add_zeros(const uint8_t *restrict zeros, size_t count, uint32_t *restrict row_zeros)
{
    for (size_t k = 0; k < count; k++)
        row_zeros[k] += zeros[k];
}

static void row_zeros_task(void *context, size_t block, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    uint32_t *row_zeros = j->state->row_zeros;
    const size_t first = block * j->rows, last = sppim_smaller(layer->k + 1, first + j->rows);
    for (size_t k = first; k < last; k++) /* less the columns that only fill the last panel */
        row_zeros[k] = -(uint32_t)(layer->panels * SPPIM_PANEL - layer->n);
    for (size_t p = 0; p < layer->panels; p++)
        add_zeros(j->state->zeros + p * layer->depth + first, last - first, row_zeros + first);
}

static void column_zeros_task(void *context, size_t n, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    uint32_t zeros = 0;
    for (size_t k = 0; k < j->layer->k; k++)
        zeros += sppim_product_weight_at(j->layer, j->state, k, n) == 0;
    j->state->column_zeros[n] = zeros;
}

bool sppim_layer_derive(sppim_network *network, size_t l, sppim_state *state)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .state = state};
    prepare_fold(&j);
    if (!sppim_pool_run(network->pool, fold_task, &j, layer->groups))
        return false;
    if (state->column_zeros && !sppim_pool_run(network->pool, column_zeros_task, &j, layer->n))
        return false;
    j.rows = sppim_at_least_one(SPPIM_TASK_MACS / (8 * layer->panels));
    return sppim_pool_run(network->pool, row_zeros_task, &j, sppim_ceil_div(layer->k + 1, j.rows));
}

void sppim_layer_complete(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    sppim_pool_set_poll(network->pool, NULL, NULL);
    layer->now.has_quads = layer->bytes;
    layer->now.has_rows = layer->now.has_words = false;
    pack_weights(network, l);
    for (size_t k = 0; k < layer->k; k++)
        layer->now.m[k] = sppim_mean_byte(layer->now.mean[k % layer->channels]);
    sppim_layer_derive(network, l, &layer->now);
}
