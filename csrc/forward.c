/* FP of a layer (A5), and the lists of non-zeros that everything else works on. */
#include "job.h"

#include <string.h>

#include "fixed.h"

typedef struct compress_job {
    const sppim_kernels *kernels;
    const int8_t *x;
    size_t n, rows;
    sppim_list *list;
} compress_job;

static void compress_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const compress_job *j = context;
    sppim_list *list = j->list;
    for (size_t b = index * j->rows; b < sppim_smaller(j->n, (index + 1) * j->rows); b++) {
        uint32_t *offset = list->offset + b * (list->blocks + 1);
        size_t found = 0;
        for (size_t i = 0; i < list->blocks; i++) {
            const size_t base = i * list->block, at = b * list->width + found;
            offset[i] = (uint32_t)found;
            found +=
                j->kernels->compress_s8(j->x + b * list->width + base, sppim_smaller(list->block, list->width - base),
                                        base, list->index + at, list->value + at);
        }
        offset[list->blocks] = (uint32_t)found;
    }
}

bool sppim_compress(sppim_network *network, const int8_t *x, size_t n, sppim_list *list)
{
    compress_job j = {network->kernels, x, n, sppim_at_least_one(SPPIM_TASK_MACS / list->width), list};
    return sppim_pool_run(network->pool, compress_task, &j, sppim_ceil_div(n, j.rows));
}

static void start_accumulators(const sppim_layer *layer, size_t column0, size_t columns, int64_t *acc,
                               uint64_t *changed)
{
    for (size_t j = 0; j < columns; j++) {
        const int64_t s = layer->now.start[column0 + j];
        acc[j] = sppim_fit1(s, layer->config.fp_accumulator);
        *changed += acc[j] != s;
    }
}

/* How many products an s32 sum is exact for: |x| <= 128, |v| <= 2^(bits-1) - 1. */
static size_t exact_terms(int product_bits) { return (size_t)INT32_MAX / ((size_t)128 << (product_bits - 1)); }

static void forward_tile(const sppim_job *j, size_t b, size_t column0, size_t columns)
{
    sppim_layer *layer = j->layer;
    const sppim_kernels *kernels = j->network->kernels;
    const int16_t *v = layer->now.v + column0;
    const sppim_nonzeros x = sppim_list_row(&j->flight->x_list[j->l], b);
    const size_t exact = exact_terms(layer->config.product_bits);
    int64_t acc[SPPIM_TILE_COLUMNS];
    uint64_t changed = 0;
    start_accumulators(layer, column0, columns, acc, &changed);
    if (layer->config.fp_accumulator.bits)
        changed += kernels->product_finite_s8_s16(x, v, layer->n, columns, layer->config.fp_accumulator, acc);
    else if (j->dense)
        kernels->product_s8_s16(j->flight->x[j->l] + b * layer->k, layer->k, v, layer->n, columns, exact, acc);
    else
        kernels->product_sparse_s8_s16(x, v, layer->n, columns, exact, acc);
    sppim_add_saturations(layer, SPPIM_SAT_ACC, changed);

    if (layer->place.output)
        memcpy(j->flight->scores + b * layer->n + column0, acc, columns * sizeof *acc);
    else
        sppim_add_saturations(layer, SPPIM_SAT_ACTIVATION,
                              kernels->requantize_relu_s64_s8(acc, columns, layer->config.fp_shift,
                                                              layer->config.fp_round, layer->config.activation_max,
                                                              j->flight->x[j->l + 1] + b * layer->n + column0));
}

static uint64_t list_total(const sppim_list *list, size_t n)
{
    uint64_t total = 0;
    for (size_t b = 0; b < n; b++)
        total += sppim_list_row(list, b).count;
    return total;
}

/* Skipping zeros beats the plain product from about this density of non-zeros down (bench/README.md). */
static bool choose_dense(const sppim_job *j)
{
    const int path = j->network->config.path;
    if (path != SPPIM_PATH_AUTO)
        return path == SPPIM_PATH_DENSE;
    return 4 * list_total(&j->flight->x_list[j->l], j->flight->n) > 3 * (uint64_t)j->flight->n * j->layer->k;
}

static void forward_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const size_t tiles = sppim_column_tiles(j->layer), tile = index % tiles, first = index / tiles * j->images;
    const size_t column0 = tile * SPPIM_TILE_COLUMNS;
    const size_t columns = sppim_smaller(SPPIM_TILE_COLUMNS, j->layer->n - column0);
    for (size_t b = first; b < sppim_smaller(j->flight->n, first + j->images) && !sppim_worker_stop(worker); b++)
        forward_tile(j, b, column0, columns);
}

/* False: interrupted. */
static bool count_forward(const sppim_job *j)
{
    sppim_layer *layer = j->layer;
    const sppim_flight *flight = j->flight;
    const sppim_list *list = &flight->x_list[j->l];
    sppim_forward_facts facts = {.images = flight->n, .fold_nonzeros = 1};
    facts.weight_gated = layer->now.row_zeros[layer->k];
    for (size_t k = 0; k < layer->k; k++)
        if (layer->now.m[k]) {
            facts.fold_nonzeros++;
            facts.weight_gated += layer->now.row_zeros[k];
        }
    for (size_t b = 0; b < flight->n; b++) {
        const sppim_nonzeros x = sppim_list_row(list, b);
        flight->input_nonzeros[j->l * flight->n + b] = (uint32_t)x.count;
        facts.operand_nonzeros += x.count;
        for (size_t i = 0; i < x.count; i++)
            facts.weight_gated += layer->now.row_zeros[x.index[i]];
        if (b % 64 == 63 && sppim_pool_stop(j->network->pool))
            return false;
    }
    sppim_count_forward(&layer->shape, &facts, &layer->delta);
    return true;
}

bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .flight = flight};
    j.images = sppim_at_least_one(SPPIM_TASK_MACS / (layer->k * SPPIM_TILE_COLUMNS));
    j.dense = choose_dense(&j);
    const size_t tasks = sppim_ceil_div(flight->n, j.images) * sppim_column_tiles(layer);
    if (!sppim_pool_run(network->pool, forward_task, &j, tasks))
        return false;
    if (!layer->place.output && !sppim_compress(network, flight->x[l + 1], flight->n, &flight->x_list[l + 1]))
        return false;
    return flight == &network->evaluation || count_forward(&j); /* A8.5: inference counts nothing */
}
