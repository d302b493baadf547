/* Making a network: memory, validation, initial state. */
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

static bool accumulator_valid(sppim_accumulator a)
{
    return (a.bits == 0 || sppim_within(a.bits, 8, 32)) && sppim_within(a.overflow, 0, SPPIM_OVERFLOW_COUNT - 1);
}

static bool layer_valid(const sppim_layer_config *c)
{
    return sppim_within(c->inputs, 1, 65535) && sppim_within(c->outputs, 1, 65535) &&
           sppim_within(c->init_bound, 0, SPPIM_WEIGHT_MAX) && sppim_within(c->product_bits, 2, 16) &&
           sppim_within(c->fp_shift, 0, 62) && sppim_within(c->fp_round, 0, SPPIM_SR - 1) &&
           sppim_within(c->activation_max, 1, 127) && sppim_within(c->margin_log2, 7, 40) &&
           sppim_within(c->delta_shift, 0, 30) && sppim_within(c->bp_shift, 0, 62) &&
           sppim_within(c->update_shift, 0, 30) && sppim_within(c->update_round, 0, SPPIM_ROUNDING_COUNT - 1) &&
           sppim_within(c->pot_levels, 1, 7) && sppim_within(c->centred, 0, 1) &&
           accumulator_valid(c->fp_accumulator) && accumulator_valid(c->gc_accumulator);
}

static sppim_status check_config(const sppim_network_config *config, const sppim_layer_config *layers, size_t count)
{
    if (config->struct_size != sizeof *config)
        return SPPIM_ERROR_SHAPE;
    if (!sppim_within(config->rule, 0, SPPIM_RULE_COUNT - 1) ||
        !sppim_within(config->execution, 0, SPPIM_EXECUTION_COUNT - 1) || !sppim_within(config->staleness, 0, 64) ||
        !sppim_within(config->batch, 1, 65535) || !sppim_within(config->threads, 1, 256) ||
        !sppim_within(config->path, 0, SPPIM_PATH_COUNT - 1) || count < 1 || count > 1024)
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
    return sppim_within(layers[count - 1].outputs, 2, 1024) ? SPPIM_OK : SPPIM_ERROR_RANGE;
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
    layer->shape = (sppim_shape){.struct_size = sizeof layer->shape,
                                 .rows = config->inputs,
                                 .columns = config->outputs,
                                 .positions = 1,
                                 .inputs = config->inputs,
                                 .outputs = config->outputs,
                                 .classes = (int64_t)network->classes,
                                 .bias = 1,
                                 .centred = config->centred,
                                 .activation_bytes = 1,
                                 .weight_bytes = 2,
                                 .macros = 1};
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
        sppim_layer_complete(created, l);
    }
    *network = created;
    return SPPIM_OK;
}
