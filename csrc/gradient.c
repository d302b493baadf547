/* GC of a layer, its update and running means (A7, A6.7). */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* Sums over the images of one block of columns of a list. */
static bool block_sums(const sppim_list *list, size_t n, size_t block, int64_t *sums, sppim_worker *worker)
{
    const size_t first = block * list->block;
    memset(sums + first, 0, sppim_smaller(list->block, list->width - first) * sizeof *sums);
    for (size_t b = 0; b < n; b++) {
        const sppim_nonzeros x = sppim_list_blocks(list, b, block, block + 1);
        for (size_t i = 0; i < x.count; i++)
            sums[x.index[i]] += x.value[i];
        if (b % 4096 == 4095 && sppim_worker_stop(worker))
            return false;
    }
    return true;
}

static void error_sum_task(void *context, size_t block, sppim_worker *worker)
{
    const sppim_job *j = context;
    block_sums(&j->layer->d_list, j->flight->n, block, j->layer->error_sum, worker);
}

/* A7.4 for one block of inputs. */
static void mean_task(void *context, size_t block, sppim_worker *worker)
{
    const sppim_job *j = context;
    sppim_layer *layer = j->layer;
    const int64_t n = (int64_t)j->flight->n;
    const sppim_list *list = &j->flight->x_list[j->l];
    if (!block_sums(list, j->flight->n, block, layer->input_sum, worker))
        return;
    for (size_t k = block * list->block; k < sppim_smaller(layer->k, (block + 1) * list->block); k++) {
        const int64_t twice = 512 * layer->input_sum[k] + n;
        const int64_t batch_mean = twice >= 0 ? twice / (2 * n) : -((-twice + 2 * n - 1) / (2 * n));
        const int64_t mean = layer->now.mean[k] + sppim_shr(batch_mean - layer->now.mean[k], 4, SPPIM_RNU);
        layer->next.mean[k] = (int16_t)mean;
        layer->next.m[k] = (int8_t)sppim_requantize1(mean, 8, SPPIM_RNU, -128, 127);
    }
}

/* Adds x d to the tile, for the rows of one image and, as A7.1 has it, for the bias row. */
static uint64_t gradient_image(const sppim_job *j, size_t b, size_t row_block, size_t column_block, int32_t *tile)
{
    const sppim_layer *layer = j->layer;
    const sppim_kernels *kernels = j->network->kernels;
    const sppim_list *x_list = &j->flight->x_list[j->l];
    const size_t row0 = row_block * SPPIM_TILE_ROWS, column0 = column_block * SPPIM_TILE_COLUMNS;
    const sppim_nonzeros d = sppim_list_blocks(&layer->d_list, b, column_block, column_block + 1);
    const uint16_t bias_index = (uint16_t)(layer->k - row0); /* relative: K itself may be 65535 */
    const int8_t bias_value = SPPIM_BIAS_INPUT;
    const sppim_nonzeros bias = {&bias_index, &bias_value, layer->k - row0 < SPPIM_TILE_ROWS};
    sppim_nonzeros x = {0};
    if (row_block < x_list->blocks)
        x = sppim_list_blocks(x_list, b, row_block, row_block + 1);
    if (!layer->config.gc_accumulator.bits) {
        kernels->gradient_s8_s8(x, row0, d, column0, tile);
        kernels->gradient_s8_s8(bias, 0, d, column0, tile);
        return 0;
    }
    return kernels->gradient_finite_s8_s8(x, row0, d, column0, layer->config.gc_accumulator, tile) +
           kernels->gradient_finite_s8_s8(bias, 0, d, column0, layer->config.gc_accumulator, tile);
}

/* The term -m D of A7.1 for one row of the tile. */
static uint64_t centre_row(const sppim_layer *layer, size_t k, size_t column0, size_t columns, int32_t *row)
{
    uint64_t changed = 0;
    if (k == layer->k || !layer->now.m[k])
        return 0;
    for (size_t i = 0; i < columns; i++) {
        const int64_t exact = row[i] - layer->now.m[k] * layer->error_sum[column0 + i];
        const int64_t fitted = sppim_fit1(exact, layer->config.gc_accumulator);
        row[i] = (int32_t)fitted;
        changed += fitted != exact;
    }
    return changed;
}

static void update_tile(const sppim_job *j, size_t row0, size_t rows, size_t column0, size_t columns, int32_t *tile)
{
    sppim_layer *layer = j->layer;
    const sppim_layer_config *c = &layer->config;
    const sppim_key key = sppim_key_make(j->network->config.seed, SPPIM_STREAM_ROUNDING, j->l, j->flight->batch);
    const sppim_update update = {c->update_shift + j->flight->rate_shift, c->update_round, key.k0, key.k1,
                                 c->product_bits};
    uint64_t changed = 0, clipped = 0;
    for (size_t r = 0; r < rows; r++) {
        int32_t *gradient = tile + r * SPPIM_TILE_COLUMNS;
        const size_t at = (row0 + r) * layer->n + column0;
        changed += centre_row(layer, row0 + r, column0, columns, gradient);
        clipped += j->network->kernels->update_s16(layer->now.w + at, gradient, columns, (uint32_t)at, &update,
                                                   layer->next.w + at, layer->next.v + at);
    }
    sppim_add_saturations(layer, SPPIM_SAT_ACC, changed);
    sppim_add_saturations(layer, SPPIM_SAT_WEIGHT, clipped);
}

static void gradient_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t tiles = sppim_column_tiles(layer), column_block = index % tiles, row_block = index / tiles;
    const size_t row0 = row_block * SPPIM_TILE_ROWS, column0 = column_block * SPPIM_TILE_COLUMNS;
    const size_t rows = sppim_smaller(SPPIM_TILE_ROWS, layer->k + 1 - row0);
    const size_t columns = sppim_smaller(SPPIM_TILE_COLUMNS, layer->n - column0);
    int32_t *tile = j->network->tiles + (size_t)worker->id * SPPIM_TILE_ROWS * SPPIM_TILE_COLUMNS;
    uint64_t changed = 0;
    memset(tile, 0, SPPIM_TILE_ROWS * SPPIM_TILE_COLUMNS * sizeof *tile);
    for (size_t b = 0; b < j->flight->n; b++) {
        if (b % 128 == 127 && sppim_worker_stop(worker))
            return;
        changed += gradient_image(j, b, row_block, column_block, tile);
    }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACC, changed);
    update_tile(j, row0, rows, column0, columns, tile);
}

/* A6.7 for one class. */
static void score_bias_task(void *context, size_t c, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    sppim_layer *layer = j->layer;
    int64_t sum = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        sum += layer->e[b * layer->classes + c];
    sum *= (int64_t)1 << (layer->config.margin_log2 - 7);
    const int64_t exact = layer->now.score_bias[c] - sppim_shr(sum, 8, SPPIM_RNU);
    layer->next.score_bias[c] = (int32_t)sppim_sat(exact, -SPPIM_SCORE_BIAS_MAX, SPPIM_SCORE_BIAS_MAX);
    sppim_add_saturations(layer, SPPIM_SAT_WEIGHT, layer->next.score_bias[c] != exact);
}

static bool update_means(sppim_job *j)
{
    sppim_layer *layer = j->layer;
    if (layer->config.centred)
        return sppim_pool_run(j->network->pool, mean_task, j, j->flight->x_list[j->l].blocks);
    memset(layer->next.mean, 0, layer->k * sizeof *layer->next.mean);
    memset(layer->next.m, 0, layer->k);
    return true;
}

static bool update_score_bias(sppim_job *j)
{
    sppim_layer *layer = j->layer;
    if (layer->place.output)
        return true;
    if (layer->place.rule == SPPIM_RULE_LOCAL)
        return sppim_pool_run(j->network->pool, score_bias_task, j, layer->classes);
    memset(layer->next.score_bias, 0, layer->classes * sizeof *layer->next.score_bias);
    return true;
}

bool sppim_update_layer(sppim_job *job)
{
    sppim_pool *pool = job->network->pool;
    const size_t tiles = sppim_ceil_div(job->layer->k + 1, SPPIM_TILE_ROWS) * sppim_column_tiles(job->layer);
    return sppim_pool_run(pool, error_sum_task, job, job->layer->d_list.blocks) &&
           sppim_pool_run(pool, gradient_task, job, tiles) && update_means(job) && update_score_bias(job);
}
