/* The phases of one layer, cut into tasks of about a millisecond: FP (A5), EP (A6), GC and update (A7). */
#include "network.h"

#include <string.h>

#include "fixed.h"

#define TASK_MACS ((size_t)2000000)

typedef struct job {
    sppim_network *network;
    sppim_layer *layer;
    size_t l;
    sppim_flight *flight;
    sppim_state *state; /* derive only */
    size_t images;      /* forward only: images of one task, */
    bool dense;         /* and the kernel */
} job;

static size_t at_least_one(size_t x) { return x ? x : 1; }
static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t column_tiles(const sppim_layer *layer) { return ceil_div(layer->n, SPPIM_TILE_COLUMNS); }

static void add_saturations(sppim_layer *layer, int which, uint64_t count)
{
    if (count)
        atomic_fetch_add_explicit(&layer->saturations[which], count, memory_order_relaxed);
}

/* ---- non-zeros ---------------------------------------------------------------------------------- */

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
    for (size_t b = index * j->rows; b < smaller(j->n, (index + 1) * j->rows); b++) {
        uint32_t *offset = list->offset + b * (list->blocks + 1);
        size_t found = 0;
        for (size_t i = 0; i < list->blocks; i++) {
            const size_t base = i * list->block, at = b * list->width + found;
            offset[i] = (uint32_t)found;
            found += j->kernels->compress_s8(j->x + b * list->width + base, smaller(list->block, list->width - base),
                                             base, list->index + at, list->value + at);
        }
        offset[list->blocks] = (uint32_t)found;
    }
}

bool sppim_compress(sppim_network *network, const int8_t *x, size_t n, sppim_list *list)
{
    compress_job j = {network->kernels, x, n, at_least_one(TASK_MACS / list->width), list};
    return sppim_pool_run(network->pool, compress_task, &j, ceil_div(n, j.rows));
}

/* ---- FP ------------------------------------------------------------------------------------------- */

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
static size_t exact_terms(int product_bits)
{
    return (size_t)INT32_MAX / ((size_t)128 << (product_bits - 1));
}

static void forward_tile(const job *j, size_t b, size_t column0, size_t columns)
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
    add_saturations(layer, SPPIM_SAT_ACC, changed);

    if (layer->place.output)
        memcpy(j->flight->scores + b * layer->n + column0, acc, columns * sizeof *acc);
    else
        add_saturations(layer, SPPIM_SAT_ACTIVATION,
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
static bool choose_dense(const job *j)
{
    const int path = j->network->config.path;
    if (path != SPPIM_PATH_AUTO)
        return path == SPPIM_PATH_DENSE;
    return 4 * list_total(&j->flight->x_list[j->l], j->flight->n) > 3 * (uint64_t)j->flight->n * j->layer->k;
}

static void forward_task(void *context, size_t index, sppim_worker *worker)
{
    const job *j = context;
    const size_t tiles = column_tiles(j->layer), tile = index % tiles, first = index / tiles * j->images;
    const size_t column0 = tile * SPPIM_TILE_COLUMNS;
    const size_t columns = smaller(SPPIM_TILE_COLUMNS, j->layer->n - column0);
    for (size_t b = first; b < smaller(j->flight->n, first + j->images) && !sppim_worker_stop(worker); b++)
        forward_tile(j, b, column0, columns);
}

static void count_forward(const job *j)
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
    }
    sppim_count_forward(&layer->shape, &facts, &layer->delta);
}

bool sppim_layer_forward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    job j = {.network = network, .layer = layer, .l = l, .flight = flight};
    j.images = at_least_one(TASK_MACS / (layer->k * SPPIM_TILE_COLUMNS));
    j.dense = choose_dense(&j);
    const size_t tasks = ceil_div(flight->n, j.images) * column_tiles(layer);
    if (!sppim_pool_run(network->pool, forward_task, &j, tasks))
        return false;
    if (!layer->place.output && !sppim_compress(network, flight->x[l + 1], flight->n, &flight->x_list[l + 1]))
        return false;
    count_forward(&j);
    return true;
}

/* ---- EP ------------------------------------------------------------------------------------------- */

/* A6.1 for one image: e from scores; returns the number of saturated values. */
static uint64_t hinge_errors(const int64_t *scores, size_t classes, size_t label, int margin_log2, int8_t *e)
{
    uint64_t saturated = 0;
    for (size_t c = 0; c < classes; c++) {
        const int64_t exact = sppim_hinge(scores[c], c == label, margin_log2);
        e[c] = (int8_t)sppim_sat(exact, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
        saturated += e[c] != exact;
    }
    return saturated;
}

/* A6.3: projection through the LEPU, then the hinge. */
static void local_errors(const job *j, size_t b, int8_t *e, sppim_worker *worker)
{
    sppim_layer *layer = j->layer;
    const sppim_nonzeros y = sppim_list_row(&j->flight->x_list[j->l + 1], b);
    int64_t scores[1024];
    for (size_t c = 0; c < layer->classes; c++) {
        if (c % 16 == 15 && sppim_worker_stop(worker))
            return;
        scores[c] = layer->now.score_bias[c] + j->network->kernels->project_s8_pot(y, layer->codes + c * layer->n);
    }
    add_saturations(layer, SPPIM_SAT_ERROR,
                    hinge_errors(scores, layer->classes, (size_t)j->flight->labels[b], layer->config.margin_log2, e));
}

/* Class errors of one image, hidden layers (A6.3, A6.4). */
static void class_errors(const job *j, size_t b, sppim_worker *worker)
{
    sppim_layer *layer = j->layer;
    const sppim_layer *output = &j->network->layers[j->network->layer_count - 1];
    const size_t classes = layer->classes;
    int8_t *e = layer->e + b * classes;
    if (layer->place.rule == SPPIM_RULE_LOCAL) {
        local_errors(j, b, e, worker);
    } else if (layer->place.rule == SPPIM_RULE_DFA) {
        memcpy(e, output->d + b * classes, classes);
    } else {
        memset(e, 0, classes);
        e[j->flight->labels[b]] = -64;
    }
}

/* d = the gated, requantized sum (end of A6.5, A6.6). */
static void gate_errors(sppim_layer *layer, const int8_t *y, const int64_t *sum, size_t count, int shift, int8_t *d)
{
    uint64_t saturated = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t rounded = y[i] > 0 ? sppim_shr(sum[i], shift, SPPIM_RNU) : 0;
        d[i] = (int8_t)sppim_sat(rounded, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
        saturated += d[i] != rounded;
    }
    add_saturations(layer, SPPIM_SAT_DELTA, saturated);
}

/* A6.6 for a tile of columns of one image. */
static void back_project_tile(const job *j, size_t b, size_t column0, size_t columns)
{
    sppim_layer *layer = j->layer;
    const int8_t *e = layer->e + b * layer->classes;
    int32_t sum[SPPIM_TILE_COLUMNS] = {0};
    int64_t wide[SPPIM_TILE_COLUMNS];
    for (size_t c = 0; c < layer->classes; c++)
        if (e[c])
            j->network->kernels->back_project_s8_pot(e[c], layer->codes + c * layer->n + column0, columns, sum);
    for (size_t i = 0; i < columns; i++)
        wide[i] = sum[i];
    gate_errors(layer, j->flight->x[j->l + 1] + b * layer->n + column0, wide, columns, layer->config.delta_shift,
                layer->d + b * layer->n + column0);
}

/* A6.5 for a tile of columns of one image: the rows of the next layer's V times its error. */
static void backpropagate_tile(const job *j, size_t b, size_t column0, size_t columns)
{
    sppim_layer *layer = j->layer, *above = layer + 1;
    const sppim_nonzeros d = sppim_list_row(&above->d_list, b);
    int64_t sum[SPPIM_TILE_COLUMNS];
    for (size_t i = 0; i < columns; i++) {
        const int16_t *row = above->now.v + (column0 + i) * above->n;
        sum[i] = 0;
        for (size_t t = 0; t < d.count; t++)
            sum[i] += d.value[t] * row[d.index[t]];
    }
    gate_errors(layer, j->flight->x[j->l + 1] + b * layer->n + column0, sum, columns, above->config.bp_shift,
                layer->d + b * layer->n + column0);
}

static void error_task(void *context, size_t b, sppim_worker *worker)
{
    const job *j = context;
    sppim_layer *layer = j->layer;
    const bool bp = layer->place.rule == SPPIM_RULE_BP;
    if (layer->place.output) {
        add_saturations(layer, SPPIM_SAT_ERROR,
                        hinge_errors(j->flight->scores + b * layer->n, layer->n, (size_t)j->flight->labels[b],
                                     layer->config.margin_log2, layer->d + b * layer->n));
        return;
    }
    if (!bp)
        class_errors(j, b, worker);
    for (size_t c = 0; c < layer->n && !sppim_worker_stop(worker); c += SPPIM_TILE_COLUMNS)
        (bp ? backpropagate_tile : back_project_tile)(j, b, c, smaller(SPPIM_TILE_COLUMNS, layer->n - c));
}

/* ---- GC and update -------------------------------------------------------------------------------- */

/* Sums over the images of one block of columns of a list. */
static bool block_sums(const sppim_list *list, size_t n, size_t block, int64_t *sums, sppim_worker *worker)
{
    const size_t first = block * list->block;
    memset(sums + first, 0, smaller(list->block, list->width - first) * sizeof *sums);
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
    const job *j = context;
    block_sums(&j->layer->d_list, j->flight->n, block, j->layer->error_sum, worker);
}

/* A7.4 for one block of inputs. */
static void mean_task(void *context, size_t block, sppim_worker *worker)
{
    const job *j = context;
    sppim_layer *layer = j->layer;
    const int64_t n = (int64_t)j->flight->n;
    const sppim_list *list = &j->flight->x_list[j->l];
    if (!block_sums(list, j->flight->n, block, layer->input_sum, worker))
        return;
    for (size_t k = block * list->block; k < smaller(layer->k, (block + 1) * list->block); k++) {
        const int64_t twice = 512 * layer->input_sum[k] + n;
        const int64_t batch_mean = twice >= 0 ? twice / (2 * n) : -((-twice + 2 * n - 1) / (2 * n));
        const int64_t mean = layer->now.mean[k] + sppim_shr(batch_mean - layer->now.mean[k], 4, SPPIM_RNU);
        layer->next.mean[k] = (int16_t)mean;
        layer->next.m[k] = (int8_t)sppim_requantize1(mean, 8, SPPIM_RNU, -128, 127);
    }
}

/* Adds x d to the tile, for the rows of one image and, as A7.1 has it, for the bias row. */
static uint64_t gradient_image(const job *j, size_t b, size_t row_block, size_t column_block, int32_t *tile)
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

static void update_tile(const job *j, size_t row0, size_t rows, size_t column0, size_t columns, int32_t *tile)
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
    add_saturations(layer, SPPIM_SAT_ACC, changed);
    add_saturations(layer, SPPIM_SAT_WEIGHT, clipped);
}

static void gradient_task(void *context, size_t index, sppim_worker *worker)
{
    const job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t tiles = column_tiles(layer), column_block = index % tiles, row_block = index / tiles;
    const size_t row0 = row_block * SPPIM_TILE_ROWS, column0 = column_block * SPPIM_TILE_COLUMNS;
    const size_t rows = smaller(SPPIM_TILE_ROWS, layer->k + 1 - row0);
    const size_t columns = smaller(SPPIM_TILE_COLUMNS, layer->n - column0);
    int32_t *tile = j->network->tiles + (size_t)worker->id * SPPIM_TILE_ROWS * SPPIM_TILE_COLUMNS;
    uint64_t changed = 0;
    memset(tile, 0, SPPIM_TILE_ROWS * SPPIM_TILE_COLUMNS * sizeof *tile);
    for (size_t b = 0; b < j->flight->n; b++) {
        if (b % 128 == 127 && sppim_worker_stop(worker))
            return;
        changed += gradient_image(j, b, row_block, column_block, tile);
    }
    add_saturations(j->layer, SPPIM_SAT_ACC, changed);
    update_tile(j, row0, rows, column0, columns, tile);
}

/* A6.7 for one class. */
static void score_bias_task(void *context, size_t c, sppim_worker *worker)
{
    (void)worker;
    const job *j = context;
    sppim_layer *layer = j->layer;
    int64_t sum = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        sum += layer->e[b * layer->classes + c];
    sum *= (int64_t)1 << (layer->config.margin_log2 - 7);
    const int64_t exact = layer->now.score_bias[c] - sppim_shr(sum, 8, SPPIM_RNU);
    layer->next.score_bias[c] = (int32_t)sppim_sat(exact, -SPPIM_SCORE_BIAS_MAX, SPPIM_SCORE_BIAS_MAX);
    add_saturations(layer, SPPIM_SAT_WEIGHT, layer->next.score_bias[c] != exact);
}

/* ---- what follows from the new weights --------------------------------------------------------------- */

/* S (A5.3) and the zeros of V's columns, for one tile of columns. */
static void fold_task(void *context, size_t tile, sppim_worker *worker)
{
    const job *j = context;
    const sppim_layer *layer = j->layer;
    sppim_state *s = j->state;
    const size_t column0 = tile * SPPIM_TILE_COLUMNS, columns = smaller(SPPIM_TILE_COLUMNS, layer->n - column0);
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
    const job *j = context;
    const sppim_layer *layer = j->layer;
    const size_t first = block * SPPIM_TILE_ROWS;
    for (size_t k = first; k < smaller(layer->k + 1, first + SPPIM_TILE_ROWS); k++) {
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
    job j = {.network = network, .layer = layer, .l = l, .state = state};
    return sppim_pool_run(network->pool, fold_task, &j, column_tiles(layer)) &&
           sppim_pool_run(network->pool, row_zeros_task, &j, ceil_div(layer->k + 1, SPPIM_TILE_ROWS));
}

/* ---- a layer's way back ------------------------------------------------------------------------------- */

static uint64_t nonzero_errors(const int8_t *e, size_t classes)
{
    uint64_t count = 0;
    for (size_t c = 0; c < classes; c++)
        count += e[c] != 0;
    return count;
}

static uint64_t pot_done(const job *j, size_t b)
{
    const sppim_layer *layer = j->layer;
    if (layer->place.output || layer->place.rule == SPPIM_RULE_BP)
        return 0;
    const uint64_t y = sppim_list_row(&j->flight->x_list[j->l + 1], b).count;
    const uint64_t e = nonzero_errors(layer->e + b * layer->classes, layer->classes);
    return y * (e + (layer->place.rule == SPPIM_RULE_LOCAL ? layer->classes : 0));
}

static void count_backward(const job *j)
{
    sppim_layer *layer = j->layer;
    const sppim_flight *flight = j->flight;
    sppim_backward_facts facts = {.images = flight->n, .fold_nonzeros = 1};
    for (size_t k = 0; k < layer->k; k++)
        facts.fold_nonzeros += layer->now.m[k] != 0;
    for (size_t i = 0; i < layer->n; i++)
        facts.error_sum_nonzeros += layer->error_sum[i] != 0;
    for (size_t b = 0; b < flight->n; b++) {
        const sppim_nonzeros d = sppim_list_row(&layer->d_list, b);
        flight->error_nonzeros[j->l * flight->n + b] = (uint32_t)d.count;
        facts.error_nonzeros += d.count;
        facts.pair_nonzeros += (uint64_t)d.count * flight->input_nonzeros[j->l * flight->n + b];
        facts.pot_done += pot_done(j, b);
        if (layer->now.column_zeros && !layer->place.first)
            for (size_t i = 0; i < d.count; i++)
                facts.column_gated += layer->now.column_zeros[d.index[i]];
    }
    sppim_count_backward(&layer->shape, layer->place, &facts, &layer->delta);
}

static bool update_means(job *j)
{
    sppim_layer *layer = j->layer;
    if (layer->config.centred)
        return sppim_pool_run(j->network->pool, mean_task, j, j->flight->x_list[j->l].blocks);
    memset(layer->next.mean, 0, layer->k * sizeof *layer->next.mean);
    memset(layer->next.m, 0, layer->k);
    return true;
}

static bool update_score_bias(job *j)
{
    sppim_layer *layer = j->layer;
    if (layer->place.output)
        return true;
    if (layer->place.rule == SPPIM_RULE_LOCAL)
        return sppim_pool_run(j->network->pool, score_bias_task, j, layer->classes);
    memset(layer->next.score_bias, 0, layer->classes * sizeof *layer->next.score_bias);
    return true;
}

bool sppim_layer_backward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_pool *pool = network->pool;
    job j = {.network = network, .layer = layer, .l = l, .flight = flight};
    const size_t tiles = ceil_div(layer->k + 1, SPPIM_TILE_ROWS) * column_tiles(layer);
    if (!sppim_pool_run(pool, error_task, &j, flight->n) ||
        !sppim_compress(network, layer->d, flight->n, &layer->d_list) ||
        !sppim_pool_run(pool, error_sum_task, &j, layer->d_list.blocks) ||
        !sppim_pool_run(pool, gradient_task, &j, tiles) || !update_means(&j) || !update_score_bias(&j) ||
        !sppim_layer_derive(network, l, &layer->next))
        return false;
    count_backward(&j);
    layer->updated = true;
    return true;
}
