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

bool sppim_layer_repack(sppim_network *network, size_t l, bool rows)
{
    sppim_state *now = &network->layers[l].now;
    if (rows ? now->has_rows : now->has_quads)
        return true;
    const sppim_state before = *now;
    *(rows ? &now->has_rows : &now->has_quads) = true;
    const bool finished = pack_weights(network, l);
    if (!finished)
        *now = before;
    return finished;
}

/* ---- S ------------------------------------------------------------------------------------------------------------ */

/* -S is the product of (m, -64), one more image, with the weights, the bias row included. */
static void fold_bytes(const sppim_job *j, size_t group, int64_t *start)
{
    const sppim_layer *layer = j->layer;
    const sppim_workspace *work = &j->network->work;
    int32_t sums[SPPIM_GROUP] = {0}, sum;
    j->network->kernels->census_s8(work->fold, layer->depth, &sum);
    if (j->state->has_quads)
        for (size_t p = 2 * group; p < sppim_smaller(2 * group + 2, layer->panels); p++)
            j->network->kernels->product_s8(work->fold, 0, 1, layer->depth / 4,
                                            j->state->quads + p * layer->depth * SPPIM_PANEL, (sppim_start){0},
                                            sums + p % 2 * SPPIM_PANEL, 0, SPPIM_LANES);
    else
        j->network->kernels->product_sparse_s8(
            (sppim_nonzeros){.index = work->list.index, .value = work->list.value, .count = j->rows},
            j->state->rows + group * layer->depth * SPPIM_GROUP, 0, 1, sums, NULL);
    for (size_t i = 0; i < SPPIM_GROUP; i++)
        start[i / SPPIM_PANEL * SPPIM_PANEL + sppim_lane_column(i % SPPIM_PANEL)] = SPPIM_OFFSET * (int64_t)sum - sums[i];
}

static void fold_pairs(const sppim_job *j, size_t group, int64_t *start)
{
    const sppim_layer *layer = j->layer;
    const size_t most = sppim_exact_steps(layer), steps = layer->depth / 2;
    for (size_t p = 2 * group; p < sppim_smaller(2 * group + 2, layer->panels); p++)
        for (size_t step = 0; step < steps; step += most) {
            int32_t sums[SPPIM_PANEL];
            j->network->kernels->product_s16(j->network->work.fold16 + 2 * step, 0, 1, sppim_smaller(most, steps - step),
                                             j->state->pairs + (p * layer->depth + 2 * step) * SPPIM_PANEL, sums, 0,
                                             SPPIM_COLUMNS);
            for (size_t c = 0; c < SPPIM_PANEL; c++)
                start[p % 2 * SPPIM_PANEL + c] -= sums[c];
        }
}

static void fold_task(void *context, size_t group, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    sppim_state *s = j->state;
    int64_t *start = s->start + group * SPPIM_GROUP;
    memset(start, 0, SPPIM_GROUP * sizeof *start);
    (j->layer->bytes ? fold_bytes : fold_pairs)(j, group, start);
    for (size_t c = 0; c < SPPIM_GROUP; c++)
        s->start_lanes[group * SPPIM_GROUP + c / SPPIM_PANEL * SPPIM_PANEL + sppim_column_lane(c % SPPIM_PANEL)] =
            (int32_t)start[c];
}

/* The operands of the fold; returns how many non-zeros their list has. */
static size_t prepare_fold(const sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    memset(work->fold, 0, layer->depth);
    memcpy(work->fold, j->state->m, layer->k);
    work->fold[layer->k] = -SPPIM_BIAS_INPUT;
    for (size_t k = 0; k < layer->depth; k++)
        work->fold16[k] = work->fold[k];
    size_t count = 0;
    if (j->state->has_rows && !j->state->has_quads) {
        count = j->network->kernels->compress_s8(work->fold, layer->k + 1, 0, work->list.index, work->list.value);
        count = sppim_pad_nonzeros(work->list.index, work->list.value, count, 0);
    }
    return count;
}

/* ---- zeros of V ----------------------------------------------------------------------------------------------------- */

static void row_zeros_task(void *context, size_t block, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    uint32_t *row_zeros = j->state->row_zeros;
    const size_t first = block * j->rows, last = sppim_smaller(layer->k + 1, first + j->rows);
    for (size_t k = first; k < last; k++)
        row_zeros[k] = 0;
    for (size_t p = 0; p < layer->panels; p++)
        for (size_t k = first; k < last; k++)
            row_zeros[k] += j->state->zeros[p * layer->depth + k];
    for (size_t k = first; k < last; k++) /* columns that only fill the last panel */
        row_zeros[k] -= (uint32_t)(layer->panels * SPPIM_PANEL - layer->n);
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
    j.rows = prepare_fold(&j);
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
    layer->now.has_rows = false;
    pack_weights(network, l);
    for (size_t k = 0; k < layer->k; k++)
        layer->now.m[k] = (int8_t)sppim_requantize1(layer->now.mean[k], 8, SPPIM_RNU, -128, 127);
    sppim_layer_derive(network, l, &layer->now);
}
