/* What follows from weights and means: V (A5.2), m (A7.4), S (A5.3) and the zeros of V. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* S (A5.3) and the zeros of V's columns, for one tile of columns. */
static void fold_task(void *context, size_t tile, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    sppim_state *s = j->state;
    const size_t column0 = tile * SPPIM_TILE_COLUMNS, columns = sppim_smaller(SPPIM_TILE_COLUMNS, layer->n - column0);
    int64_t *start = s->start + column0;
    for (size_t i = 0; i < columns; i++)
        start[i] = SPPIM_BIAS_INPUT * s->v[layer->k * layer->n + column0 + i];
    if (s->column_zeros)
        memset(s->column_zeros + column0, 0, columns * sizeof *s->column_zeros);
    for (size_t k = 0; k < layer->k; k++) {
        const int16_t *row = s->v + k * layer->n + column0;
        if (s->m[k])
            for (size_t i = 0; i < columns; i++)
                start[i] -= s->m[k] * row[i];
        if (s->column_zeros)
            for (size_t i = 0; i < columns; i++)
                s->column_zeros[column0 + i] += row[i] == 0;
        if (k % 4096 == 4095 && sppim_worker_stop(worker))
            return;
    }
}

static void row_zeros_task(void *context, size_t block, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t first = block * SPPIM_TILE_ROWS;
    for (size_t k = first; k < sppim_smaller(layer->k + 1, first + SPPIM_TILE_ROWS); k++) {
        const int16_t *row = j->state->v + k * layer->n;
        uint32_t zeros = 0;
        for (size_t i = 0; i < layer->n; i++)
            zeros += row[i] == 0;
        j->state->row_zeros[k] = zeros;
    }
}

bool sppim_layer_derive(sppim_network *network, size_t l, sppim_state *state)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .state = state};
    return sppim_pool_run(network->pool, fold_task, &j, sppim_column_tiles(layer)) &&
           sppim_pool_run(network->pool, row_zeros_task, &j, sppim_ceil_div(layer->k + 1, SPPIM_TILE_ROWS));
}

void sppim_layer_complete(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    for (size_t i = 0; i < (layer->k + 1) * layer->n; i++)
        layer->now.v[i] = (int16_t)sppim_product_weight(layer->now.w[i], layer->config.product_bits);
    for (size_t k = 0; k < layer->k; k++)
        layer->now.m[k] = (int8_t)sppim_requantize1(layer->now.mean[k], 8, SPPIM_RNU, -128, 127);
    sppim_pool_set_poll(network->pool, NULL, NULL);
    sppim_layer_derive(network, l, &layer->now);
}
