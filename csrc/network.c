/* A network: its state, the ring of batches in flight, and the tick (A8). */
#include "network.h"

#include <stdlib.h>
#include <string.h>

#include "fixed.h"

/* ---- memory: everything a network owns, freed together --------------------------------------------------- */

typedef struct allocation {
    struct allocation *next;
} allocation;

#define ALIGNMENT 64

/* Zeroed by calloc: pages that are never used cost nothing. */
static void *take(sppim_network *network, size_t count, size_t size)
{
    if (count > (SIZE_MAX - sizeof(allocation) - ALIGNMENT) / size)
        return NULL;
    allocation *a = calloc(1, sizeof *a + ALIGNMENT + count * size);
    if (!a)
        return NULL;
    a->next = network->allocations;
    network->allocations = a;
    return (void *)(((uintptr_t)(a + 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

/* Takes memory for *pointer; false: none left. */
#define TAKE(network, pointer, count) (((pointer) = take(network, count, sizeof *(pointer))) != NULL)

void sppim_network_destroy(sppim_network *network)
{
    if (!network)
        return;
    sppim_pool_destroy(network->pool);
    for (allocation *a = network->allocations; a;) {
        allocation *next = a->next;
        free(a);
        a = next;
    }
    free(network);
}

/* ---- validation ---------------------------------------------------------------------------------------- */

static bool within(int64_t x, int64_t low, int64_t high) { return low <= x && x <= high; }

static bool accumulator_valid(sppim_accumulator a)
{
    return (a.bits == 0 || within(a.bits, 8, 32)) && within(a.overflow, 0, SPPIM_OVERFLOW_COUNT - 1);
}

static bool layer_valid(const sppim_layer_config *c)
{
    return within(c->inputs, 1, 65535) && within(c->outputs, 1, 65535) &&
           within(c->init_bound, 0, SPPIM_WEIGHT_MAX) && within(c->product_bits, 2, 16) &&
           within(c->fp_shift, 0, 62) && within(c->fp_round, 0, SPPIM_SR - 1) &&
           within(c->activation_max, 1, 127) && within(c->margin_log2, 7, 40) &&
           within(c->delta_shift, 0, 30) && within(c->bp_shift, 0, 62) && within(c->update_shift, 0, 30) &&
           within(c->update_round, 0, SPPIM_ROUNDING_COUNT - 1) && within(c->pot_levels, 1, 7) &&
           within(c->centred, 0, 1) && accumulator_valid(c->fp_accumulator) && accumulator_valid(c->gc_accumulator);
}

static sppim_status check_config(const sppim_network_config *config, const sppim_layer_config *layers, size_t count)
{
    if (config->struct_size != sizeof *config)
        return SPPIM_ERROR_SHAPE;
    if (!within(config->rule, 0, SPPIM_RULE_COUNT - 1) ||
        !within(config->execution, 0, SPPIM_EXECUTION_COUNT - 1) || !within(config->staleness, 0, 64) ||
        !within(config->batch, 1, 65535) || !within(config->threads, 1, 256) ||
        !within(config->path, 0, SPPIM_PATH_COUNT - 1) || count < 1 || count > 1024)
        return SPPIM_ERROR_RANGE;
    if (config->rule == SPPIM_RULE_BP && config->execution == SPPIM_PIPELINED)
        return SPPIM_ERROR_RANGE;
    for (size_t l = 0; l < count; l++) {
        if (layers[l].struct_size != sizeof layers[l])
            return SPPIM_ERROR_SHAPE;
        if (!layer_valid(&layers[l]))
            return SPPIM_ERROR_RANGE;
        if (l && layers[l].inputs != layers[l - 1].outputs)
            return SPPIM_ERROR_SHAPE;
    }
    return within(layers[count - 1].outputs, 2, 1024) ? SPPIM_OK : SPPIM_ERROR_RANGE;
}

/* ---- creation -------------------------------------------------------------------------------------------- */

static bool take_list(sppim_network *network, size_t rows, size_t width, size_t block, sppim_list *list)
{
    list->width = width;
    list->block = block;
    list->blocks = (width + block - 1) / block;
    return TAKE(network, list->index, rows * width) && TAKE(network, list->value, rows * width) &&
           TAKE(network, list->offset, rows * (list->blocks + 1));
}

static bool take_state(sppim_network *network, const sppim_layer *layer, sppim_state *s)
{
    const size_t words = (layer->k + 1) * layer->n;
    const bool hidden = !layer->place.output, bp = layer->place.rule == SPPIM_RULE_BP;
    return TAKE(network, s->w, words) && TAKE(network, s->v, words) && TAKE(network, s->mean, layer->k) &&
           TAKE(network, s->m, layer->k) && (!hidden || TAKE(network, s->score_bias, layer->classes)) &&
           TAKE(network, s->start, layer->n) && TAKE(network, s->row_zeros, layer->k + 1) &&
           (!bp || TAKE(network, s->column_zeros, layer->n));
}

static bool take_flight(sppim_network *network, sppim_flight *flight)
{
    const size_t batch = (size_t)network->config.batch, layers = network->layer_count;
    if (!TAKE(network, flight->labels, batch) || !TAKE(network, flight->x, layers) ||
        !TAKE(network, flight->x_list, layers) || !TAKE(network, flight->scores, batch * network->classes) ||
        !TAKE(network, flight->input_nonzeros, batch * layers) ||
        !TAKE(network, flight->error_nonzeros, batch * layers))
        return false;
    for (size_t l = 0; l < layers; l++) {
        const size_t k = network->layers[l].k;
        if (!TAKE(network, flight->x[l], batch * k) ||
            !take_list(network, batch, k, SPPIM_TILE_ROWS, &flight->x_list[l]))
            return false;
    }
    return true;
}

static bool take_layer(sppim_network *network, sppim_layer *layer)
{
    const size_t batch = (size_t)network->config.batch;
    const bool hidden = !layer->place.output;
    return take_state(network, layer, &layer->now) && take_state(network, layer, &layer->next) &&
           (!hidden || (TAKE(network, layer->codes, layer->classes * layer->n) &&
                        TAKE(network, layer->e, batch * layer->classes))) &&
           TAKE(network, layer->d, batch * layer->n) &&
           take_list(network, batch, layer->n, SPPIM_TILE_COLUMNS, &layer->d_list) &&
           TAKE(network, layer->input_sum, layer->k) && TAKE(network, layer->error_sum, layer->n);
}

static void describe_layer(sppim_network *network, size_t l, const sppim_layer_config *config)
{
    sppim_layer *layer = &network->layers[l];
    layer->config = *config;
    layer->k = (size_t)config->inputs;
    layer->n = (size_t)config->outputs;
    layer->classes = network->classes;
    layer->place = (sppim_place){network->config.rule, l == 0, l == network->layer_count - 1};
    layer->shape = (sppim_shape){
        .struct_size = sizeof layer->shape, .rows = config->inputs, .columns = config->outputs, .positions = 1,
        .inputs = config->inputs, .outputs = config->outputs, .classes = (int64_t)network->classes, .bias = 1,
        .centred = config->centred, .activation_bytes = 1, .weight_bytes = 2, .macros = 1};
}

/* A5.1, A4.3 */
static void draw_layer(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    const int64_t bound = layer->config.init_bound;
    const sppim_key weights = sppim_key_make(network->config.seed, SPPIM_STREAM_WEIGHTS, l, 0);
    const sppim_key codes = sppim_key_make(network->config.seed, SPPIM_STREAM_LEPU, l, 0);
    for (size_t i = 0; i < layer->k * layer->n; i++)
        layer->now.w[i] = (int16_t)((((2 * bound + 1) * sppim_draw16_1(weights, (uint32_t)i)) >> 16) - bound);
    if (layer->codes)
        for (size_t i = 0; i < layer->classes * layer->n; i++)
            layer->codes[i] = sppim_pot_code(sppim_draw16_1(codes, (uint32_t)i), layer->config.pot_levels);
}

/* What follows from W and M: V (A5.2), m (A7.4), S (A5.3). */
static void complete_state(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    for (size_t i = 0; i < (layer->k + 1) * layer->n; i++)
        layer->now.v[i] = (int16_t)sppim_product_weight(layer->now.w[i], layer->config.product_bits);
    for (size_t k = 0; k < layer->k; k++)
        layer->now.m[k] = (int8_t)sppim_requantize1(layer->now.mean[k], 8, SPPIM_RNU, -128, 127);
    sppim_pool_set_poll(network->pool, NULL, NULL);
    sppim_layer_derive(network, l, &layer->now);
}

static size_t ring_depth(const sppim_network_config *config, size_t layers)
{
    return (size_t)config->staleness + (config->execution == SPPIM_PIPELINED ? layers : 1);
}

static bool build(sppim_network *network, const sppim_layer_config *layers)
{
    const sppim_network_config *config = &network->config;
    network->depth = ring_depth(config, network->layer_count);
    network->pool = sppim_pool_create(config->threads);
    if (!network->pool || !TAKE(network, network->layers, network->layer_count) ||
        !TAKE(network, network->flights, network->depth) ||
        !TAKE(network, network->tiles, (size_t)config->threads * SPPIM_TILE_ROWS * SPPIM_TILE_COLUMNS))
        return false;
    for (size_t l = 0; l < network->layer_count; l++) {
        describe_layer(network, l, &layers[l]);
        if (!take_layer(network, &network->layers[l]))
            return false;
    }
    for (size_t i = 0; i < network->depth; i++)
        if (!take_flight(network, &network->flights[i]))
            return false;
    return take_flight(network, &network->evaluation);
}

sppim_status sppim_network_create(const sppim_network_config *config, const sppim_layer_config *layers,
                                  size_t layer_count, sppim_network **network)
{
    if (!config || !layers || !network)
        return SPPIM_ERROR_NULL;
    const sppim_status status = check_config(config, layers, layer_count);
    if (status != SPPIM_OK)
        return status;
    const sppim_kernels *kernels = sppim_kernels_find(config->isa);
    if (!kernels)
        return SPPIM_ERROR_ISA;
    sppim_network *created = calloc(1, sizeof *created);
    if (!created)
        return SPPIM_ERROR_MEMORY;
    created->config = *config;
    created->config.isa = NULL; /* the caller's string need not outlive the call */
    created->kernels = kernels;
    created->layer_count = layer_count;
    created->classes = (size_t)layers[layer_count - 1].outputs;
    atomic_flag_clear(&created->busy);
    if (!build(created, layers)) {
        sppim_network_destroy(created);
        return SPPIM_ERROR_MEMORY;
    }
    for (size_t l = 0; l < layer_count; l++) {
        draw_layer(created, l);
        complete_state(created, l);
    }
    *network = created;
    return SPPIM_OK;
}

/* ---- the tick ---------------------------------------------------------------------------------------------- */

/* The flight that entered `age` ticks ago; null: none, or an empty place. */
static sppim_flight *flight_of_age(sppim_network *network, size_t age)
{
    if (age > network->ticks)
        return NULL;
    sppim_flight *flight = &network->flights[(network->ticks - age) % network->depth];
    return flight->occupied ? flight : NULL;
}

static bool enter(sppim_network *network, const int8_t *x, const int32_t *labels, size_t n, int rate_shift)
{
    sppim_flight *flight = &network->flights[network->ticks % network->depth];
    flight->occupied = n > 0;
    if (!n)
        return true;
    flight->batch = network->batches;
    flight->n = n;
    flight->rate_shift = rate_shift;
    memcpy(flight->labels, labels, n * sizeof *labels);
    memcpy(flight->x[0], x, n * network->layers[0].k);
    return sppim_compress(network, flight->x[0], n, &flight->x_list[0]);
}

/* Ages of the batches on which layer l works in this tick (A8.1, A8.2). */
static size_t forward_age(const sppim_network *network, size_t l)
{
    return network->config.execution == SPPIM_PIPELINED ? l : 0;
}

static size_t backward_age(const sppim_network *network, size_t l)
{
    const size_t seen = network->config.rule == SPPIM_RULE_DFA ? network->layer_count - 1 : l;
    return forward_age(network, seen) + (size_t)network->config.staleness;
}

static bool forward(sppim_network *network, size_t l)
{
    sppim_flight *flight = flight_of_age(network, forward_age(network, l));
    return !flight || sppim_layer_forward(network, l, flight);
}

static bool backward(sppim_network *network, size_t l)
{
    sppim_flight *flight = flight_of_age(network, backward_age(network, l));
    return !flight || sppim_layer_backward(network, l, flight);
}

static bool work(sppim_network *network)
{
    const size_t count = network->layer_count;
    if (network->config.execution == SPPIM_PIPELINED) {
        for (size_t l = count; l-- > 0;)
            if (!forward(network, l) || !backward(network, l))
                return false;
        return true;
    }
    for (size_t l = 0; l < count; l++)
        if (!forward(network, l))
            return false;
    for (size_t l = count; l-- > 0;)
        if (!backward(network, l))
            return false;
    return true;
}

static void add_counters(sppim_counters *sum, const sppim_counters *delta)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)delta;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

static void begin(sppim_network *network)
{
    for (size_t l = 0; l < network->layer_count; l++) {
        sppim_layer *layer = &network->layers[l];
        layer->updated = false;
        memset(&layer->delta, 0, sizeof layer->delta);
        for (int i = 0; i < SPPIM_SATS; i++)
            atomic_store(&layer->saturations[i], 0);
    }
}

/* The clock edge. */
static void commit(sppim_network *network)
{
    for (size_t l = 0; l < network->layer_count; l++) {
        sppim_layer *layer = &network->layers[l];
        layer->delta.acc_saturations = layer->saturations[SPPIM_SAT_ACC];
        layer->delta.activation_saturations = layer->saturations[SPPIM_SAT_ACTIVATION];
        layer->delta.error_saturations = layer->saturations[SPPIM_SAT_ERROR];
        layer->delta.delta_saturations = layer->saturations[SPPIM_SAT_DELTA];
        layer->delta.weight_saturations = layer->saturations[SPPIM_SAT_WEIGHT];
        add_counters(&layer->counters, &layer->delta);
        if (layer->updated) {
            const sppim_state old = layer->now;
            layer->now = layer->next;
            layer->next = old;
        }
    }
}

static void retire(sppim_network *network, sppim_trace *trace)
{
    sppim_flight *flight = flight_of_age(network, network->depth - 1);
    if (trace)
        *trace = flight ? (sppim_trace){flight->batch, flight->n, flight->input_nonzeros, flight->error_nonzeros}
                        : (sppim_trace){0, 0, NULL, NULL};
    if (flight)
        flight->occupied = false;
}

static bool labels_valid(const sppim_network *network, const int32_t *labels, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (labels[i] < 0 || (size_t)labels[i] >= network->classes)
            return false;
    return true;
}

sppim_status sppim_network_tick(sppim_network *network, const int8_t *x, const int32_t *labels, size_t n,
                                int32_t rate_shift, sppim_poll poll, void *user, sppim_trace *trace)
{
    if (!network || (n && (!x || !labels)))
        return SPPIM_ERROR_NULL;
    if (n > (size_t)network->config.batch)
        return SPPIM_ERROR_SHAPE;
    if (!within(rate_shift, 0, 16) || !labels_valid(network, labels, n))
        return SPPIM_ERROR_RANGE;
    if (atomic_flag_test_and_set(&network->busy))
        return SPPIM_ERROR_BUSY;
    sppim_pool_set_poll(network->pool, poll, user);
    begin(network);
    const bool finished = enter(network, x, labels, n, rate_shift) && work(network);
    if (finished) {
        commit(network);
        retire(network, trace);
        network->ticks++;
        network->batches += n > 0;
    } else {
        network->flights[network->ticks % network->depth].occupied = false;
    }
    atomic_flag_clear(&network->busy);
    return finished ? SPPIM_OK : SPPIM_ERROR_INTERRUPTED;
}

size_t sppim_network_in_flight(const sppim_network *network)
{
    size_t count = 0;
    for (size_t i = 0; network && i < network->depth; i++)
        count += network->flights[i].occupied;
    return count;
}

static bool score_batch(sppim_network *network, const int8_t *x, size_t n, int64_t *scores)
{
    sppim_flight *flight = &network->evaluation;
    flight->n = n;
    memcpy(flight->x[0], x, n * network->layers[0].k);
    if (!sppim_compress(network, flight->x[0], n, &flight->x_list[0]))
        return false;
    for (size_t l = 0; l < network->layer_count; l++)
        if (!sppim_layer_forward(network, l, flight))
            return false;
    memcpy(scores, flight->scores, n * network->classes * sizeof *scores);
    return true;
}

sppim_status sppim_network_scores(sppim_network *network, const int8_t *x, size_t n, sppim_poll poll,
                                  void *user, int64_t *scores)
{
    if (!network || (n && (!x || !scores)))
        return SPPIM_ERROR_NULL;
    if (atomic_flag_test_and_set(&network->busy))
        return SPPIM_ERROR_BUSY;
    sppim_pool_set_poll(network->pool, poll, user);
    bool finished = true;
    const size_t batch = (size_t)network->config.batch;
    for (size_t b = 0; finished && b < n; b += batch)
        finished = score_batch(network, x + b * network->layers[0].k, n - b < batch ? n - b : batch,
                               scores + b * network->classes);
    atomic_flag_clear(&network->busy);
    return finished ? SPPIM_OK : SPPIM_ERROR_INTERRUPTED;
}

/* ---- reading and writing the state ---------------------------------------------------------------------------- */

sppim_status sppim_network_counters(const sppim_network *network, size_t layer, sppim_counters *counters)
{
    if (!network || !counters)
        return SPPIM_ERROR_NULL;
    if (layer >= network->layer_count)
        return SPPIM_ERROR_RANGE;
    *counters = network->layers[layer].counters;
    return SPPIM_OK;
}

const char *sppim_network_isa(const sppim_network *network) { return network ? network->kernels->name : NULL; }

uint64_t sppim_network_batches(const sppim_network *network) { return network ? network->batches : 0; }

sppim_status sppim_network_set_batches(sppim_network *network, uint64_t batches)
{
    if (!network)
        return SPPIM_ERROR_NULL;
    if (sppim_network_in_flight(network))
        return SPPIM_ERROR_BUSY;
    network->batches = batches;
    return SPPIM_OK;
}

typedef struct tensor_view {
    void *data;
    size_t count, item_size;
    int64_t limit; /* largest magnitude; 0: read only */
} tensor_view;

static tensor_view view_tensor(const sppim_layer *layer, int32_t tensor)
{
    const bool hidden = !layer->place.output;
    switch (tensor) {
    case SPPIM_WEIGHTS:
        return (tensor_view){layer->now.w, (layer->k + 1) * layer->n, sizeof(int16_t), SPPIM_WEIGHT_MAX};
    case SPPIM_MEANS:
        return (tensor_view){layer->now.mean, layer->k, sizeof(int16_t), layer->config.centred ? 32768 : 0};
    case SPPIM_SCORE_BIAS:
        return (tensor_view){layer->now.score_bias, hidden ? layer->classes : 0, hidden ? sizeof(int32_t) : 0,
                             SPPIM_SCORE_BIAS_MAX};
    default:
        return (tensor_view){layer->codes, hidden ? layer->classes * layer->n : 0, hidden ? 1 : 0, 0};
    }
}

static sppim_status find_tensor(const sppim_network *network, size_t layer, int32_t tensor, tensor_view *view)
{
    if (!network)
        return SPPIM_ERROR_NULL;
    if (layer >= network->layer_count || !within(tensor, 0, SPPIM_TENSOR_COUNT - 1))
        return SPPIM_ERROR_RANGE;
    *view = view_tensor(&network->layers[layer], tensor);
    return SPPIM_OK;
}

sppim_status sppim_network_tensor_size(const sppim_network *network, size_t layer, int32_t tensor, size_t *count,
                                       size_t *item_size)
{
    tensor_view view;
    const sppim_status status = find_tensor(network, layer, tensor, &view);
    if (status != SPPIM_OK)
        return status;
    if (!count || !item_size)
        return SPPIM_ERROR_NULL;
    *count = view.count;
    *item_size = view.item_size;
    return SPPIM_OK;
}

sppim_status sppim_network_get(const sppim_network *network, size_t layer, int32_t tensor, void *out)
{
    tensor_view view;
    const sppim_status status = find_tensor(network, layer, tensor, &view);
    if (status != SPPIM_OK)
        return status;
    if (view.count && !out)
        return SPPIM_ERROR_NULL;
    if (view.count)
        memcpy(out, view.data, view.count * view.item_size);
    return SPPIM_OK;
}

static bool values_within(const tensor_view *view, const void *values)
{
    for (size_t i = 0; i < view->count; i++) {
        const int64_t x = view->item_size == 2 ? ((const int16_t *)values)[i] : ((const int32_t *)values)[i];
        if (!within(x, -view->limit, view->limit))
            return false;
    }
    return true;
}

sppim_status sppim_network_set(sppim_network *network, size_t layer, int32_t tensor, const void *values)
{
    tensor_view view;
    const sppim_status status = find_tensor(network, layer, tensor, &view);
    if (status != SPPIM_OK)
        return status;
    if (view.count && !values)
        return SPPIM_ERROR_NULL;
    if (!view.limit || !values_within(&view, values))
        return SPPIM_ERROR_RANGE;
    if (sppim_network_in_flight(network) || atomic_flag_test_and_set(&network->busy))
        return SPPIM_ERROR_BUSY;
    if (view.count)
        memcpy(view.data, values, view.count * view.item_size);
    begin(network);
    complete_state(network, layer);
    atomic_flag_clear(&network->busy);
    return SPPIM_OK;
}
