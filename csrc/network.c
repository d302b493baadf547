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

static bool numbers_valid(const sppim_layer_config *c)
{
    return sppim_within(c->outputs, 1, 65535) && sppim_within(c->init_bound, 0, SPPIM_WEIGHT_MAX) &&
           sppim_within(c->product_bits, 2, 16) && sppim_within(c->fp_shift, 0, 62) &&
           sppim_within(c->fp_round, 0, SPPIM_SR - 1) && sppim_within(c->activation_max, 1, 127) &&
           sppim_within(c->margin_log2, 7, 40) && sppim_within(c->delta_shift, 0, 30) &&
           sppim_within(c->bp_shift, 0, 62) && sppim_within(c->update_shift, 0, 30) &&
           sppim_within(c->update_round, 0, SPPIM_ROUNDING_COUNT - 1) && sppim_within(c->pot_levels, 1, 7) &&
           sppim_within(c->centred, 0, 1) && sppim_within(c->weight_bits, 8, 16) &&
           sppim_within(c->error_bits, 2, 8) && sppim_within(c->error_threshold, 0, SPPIM_ERROR_MAX) &&
           sppim_accumulator_valid(c->fp_accumulator) &&
           sppim_accumulator_valid(c->gc_accumulator);
}

/* A2.2; its geometry is that of A12.1. */
static sppim_status check_layer(const sppim_layer_config *c, int64_t batch)
{
    sppim_geometry g;
    if (c->struct_size != sizeof *c)
        return SPPIM_ERROR_SHAPE;
    if (!numbers_valid(c))
        return SPPIM_ERROR_RANGE;
    const sppim_status status = sppim_geometry_of(c, &g);
    if (status != SPPIM_OK)
        return status;
    return (int64_t)g.positions * batch <= (int64_t)1 << 16 ? SPPIM_OK : SPPIM_ERROR_RANGE;
}

static size_t outputs_of(const sppim_layer_config *c)
{
    sppim_geometry g;
    sppim_geometry_of(c, &g);
    return g.outputs;
}

static sppim_status check_layers(const sppim_layer_config *layers, size_t count, int64_t batch)
{
    for (size_t l = 0; l < count; l++) {
        const sppim_status status = check_layer(&layers[l], batch);
        if (status != SPPIM_OK)
            return status;
        if (l && (size_t)layers[l].inputs != outputs_of(&layers[l - 1]))
            return SPPIM_ERROR_SHAPE;
    }
    const sppim_layer_config *last = &layers[count - 1];
    if (outputs_of(last) != (size_t)last->outputs || last->pooling)
        return SPPIM_ERROR_SHAPE; /* the output layer has one position (A12.2) */
    return sppim_within(last->outputs, 2, 1024) ? SPPIM_OK : SPPIM_ERROR_RANGE;
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
    return check_layers(layers, count, config->batch);
}

/* ---- creation -------------------------------------------------------------------------------------------- */

/* A network whose update is this short works on its weights in place, uninterrupted (sppim_layer.in_place). */
#define IN_PLACE_MACS ((size_t)1 << 26)

static bool take_weights(sppim_network *network, const sppim_layer *layer, sppim_state *s)
{
    const size_t cells = layer->panels * layer->depth;
    if (!TAKE(network, s->w, cells * SPPIM_PANEL) || !TAKE(network, s->zeros, cells))
        return false;
    if (layer->bytes)
        return TAKE(network, s->quads, cells * SPPIM_PANEL) &&
               TAKE(network, s->rows, layer->groups * layer->depth * SPPIM_GROUP);
    s->pairs = s->w;
    return (layer->config.product_bits == 16 || TAKE(network, s->pairs, cells * SPPIM_PANEL)) &&
           (layer->fp_finite || TAKE(network, s->words, layer->groups * layer->depth * SPPIM_GROUP));
}

/* What a network keeps twice whatever its size. */
static bool take_state(sppim_network *network, const sppim_layer *layer, sppim_state *s)
{
    const bool hidden = !layer->place.output, bp = layer->place.rule == SPPIM_RULE_BP;
    return TAKE(network, s->mean, layer->channels) && TAKE(network, s->m, layer->k) &&
           (!hidden || TAKE(network, s->score_bias, layer->classes)) && TAKE(network, s->start, layer->ld) &&
           TAKE(network, s->start_lanes, layer->ld) && TAKE(network, s->row_zeros, layer->k + 1) &&
           (!bp || TAKE(network, s->column_zeros, layer->n));
}

static bool take_flight(sppim_network *network, sppim_flight *flight)
{
    const size_t batch = (size_t)network->config.batch, layers = network->layer_count;
    if (!TAKE(network, flight->labels, batch) || !TAKE(network, flight->x, layers) ||
        !TAKE(network, flight->x_sum, layers) || !TAKE(network, flight->pooled, layers) ||
        !TAKE(network, flight->scores, batch * network->classes) ||
        !TAKE(network, flight->value_nonzeros, batch * layers) || !TAKE(network, flight->input_nonzeros, batch * layers) || !TAKE(network, flight->error_nonzeros, batch * layers))
        return false;
    for (size_t l = 0; l < layers; l++) {
        const sppim_layer *layer = &network->layers[l];
        const size_t ld = sppim_input_ld(layer);
        if (!TAKE(network, flight->x[l], batch * ld) || !TAKE(network, flight->x_sum[l], ld) ||
            (layer->pooled_size && !TAKE(network, flight->pooled[l], batch * layer->pooled_size)))
            return false;
    }
    return true;
}

/* What a window needs besides. */
static bool take_window(sppim_network *network, sppim_layer *layer)
{
    layer->column_nonzeros = layer->value_nonzeros;
    if (!layer->windowed)
        return true;
    const sppim_window *window = &layer->config.window;
    if (!TAKE(network, layer->column_nonzeros, layer->k) ||
        !TAKE(network, layer->feature_nonzeros, (size_t)network->config.batch) ||
        !TAKE(network, layer->uses.rows, (size_t)window->height) ||
        !TAKE(network, layer->uses.columns, (size_t)window->width))
        return false;
    sppim_count_uses(window, layer->down, layer->across, &layer->uses);
    return true;
}

/* What the LEPU of a hidden layer needs. */
static bool take_lepu(sppim_network *network, sppim_layer *layer)
{
    const size_t class_panels = sppim_ceil_div(layer->classes, SPPIM_PANEL);
    const size_t output_panels = sppim_ceil_div(layer->outputs, SPPIM_PANEL);
    return TAKE(network, layer->codes, layer->classes * layer->features) &&
           TAKE(network, layer->e, (size_t)network->config.batch * layer->class_ld) &&
           TAKE(network, layer->project, class_panels * sppim_round_up(layer->outputs, SPPIM_DEPTH) * SPPIM_PANEL) &&
           TAKE(network, layer->back_project,
                output_panels * sppim_round_up(layer->classes, SPPIM_DEPTH) * SPPIM_PANEL) &&
           TAKE(network, layer->back_start, output_panels * SPPIM_PANEL);
}

static bool take_layer(sppim_network *network, sppim_layer *layer)
{
    const size_t batch = (size_t)network->config.batch;
    if (!take_weights(network, layer, &layer->now) || !take_state(network, layer, &layer->now))
        return false;
    layer->next = layer->now;
    return (layer->in_place || take_weights(network, layer, &layer->next)) &&
           take_state(network, layer, &layer->next) && TAKE(network, layer->delta, batch * layer->out_ld) &&
           TAKE(network, layer->value_nonzeros, sppim_input_ld(layer)) && TAKE(network, layer->error_sum, layer->ld) &&
           TAKE(network, layer->error_column_nonzeros, layer->ld) && take_window(network, layer) &&
           (layer->place.output || take_lepu(network, layer));
}

/* The largest that any layer needs of each. */
typedef struct extent {
    size_t inputs, depth, columns;    /* rows and columns of weights; inputs without a window */
    size_t terms, error_cells;        /* of a gradient at a time: images or positions; errors */
    size_t operand_ld, position_cells; /* with a window: operands of a position; errors or activations of an image */
    size_t gradient_cells;            /* with a window: weights */
    size_t back_columns, back_cells, map; /* rule bp: K, weights, inputs */
    bool wide, windowed;
} extent;

static void measure_window(const sppim_layer *layer, extent *e)
{
    e->windowed = true;
    e->operand_ld = sppim_larger(e->operand_ld, layer->operand_ld);
    e->position_cells = sppim_larger(e->position_cells, layer->positions * layer->ld);
    e->gradient_cells = sppim_larger(e->gradient_cells, layer->panels * SPPIM_PANEL * layer->depth);
}

static void measure_back(const sppim_layer *layer, extent *e)
{
    const size_t columns = sppim_round_up(layer->k, SPPIM_PANEL);
    e->back_columns = sppim_larger(e->back_columns, columns);
    e->back_cells = sppim_larger(e->back_cells, columns * layer->ld);
    e->map = sppim_larger(e->map, layer->inputs);
}

static extent measure(const sppim_network *network)
{
    extent e = {0};
    for (size_t l = 0; l < network->layer_count; l++) {
        const sppim_layer *layer = &network->layers[l];
        const size_t terms = sppim_round_up(sppim_gradient_images(network, layer) * layer->positions, SPPIM_GROUP);
        e.depth = sppim_larger(e.depth, sppim_round_up(layer->depth, SPPIM_GROUP));
        e.columns = sppim_larger(e.columns, layer->ld);
        e.terms = sppim_larger(e.terms, terms);
        e.error_cells = sppim_larger(e.error_cells, terms * layer->ld);
        e.wide |= !layer->bytes;
        if (layer->windowed)
            measure_window(layer, &e);
        else
            e.inputs = sppim_larger(e.inputs, sppim_input_ld(layer));
        if (l && layer->place.rule == SPPIM_RULE_BP)
            measure_back(layer, &e);
    }
    return e;
}

/* Room for lists of the non-zeros of `rows` rows of operands. */
static bool take_list(sppim_network *network, extent e, size_t rows, sppim_list *list)
{
    list->ld = e.depth + 2 * SPPIM_DEPTH + SPPIM_GROUP; /* padding; what compressing writes beyond its end */
    return TAKE(network, list->index, rows * list->ld) && TAKE(network, list->value, rows * list->ld) &&
           (!e.wide || TAKE(network, list->value16, rows * list->ld)) && TAKE(network, list->negatives, rows) &&
           TAKE(network, list->count, rows);
}

static bool take_workspace(sppim_network *network, extent e, sppim_workspace *w)
{
    const size_t batch = sppim_round_up((size_t)network->config.batch, SPPIM_DEPTH);
    w->terms_ld = e.terms + SPPIM_GROUP; /* not a power of two: rows would share the sets of a cache */
    return take_list(network, e, batch, &w->list) && (!e.wide || TAKE(network, w->x16, batch * e.inputs)) &&
           TAKE(network, w->zeros, e.depth) && TAKE(network, w->signed_start, e.columns) &&
           TAKE(network, w->x_columns, e.depth * w->terms_ld) && TAKE(network, w->active, e.terms) &&
           TAKE(network, w->d_quads, e.error_cells) && TAKE(network, w->d_rows, e.error_cells) &&
           TAKE(network, w->d_pairs, e.error_cells) && TAKE(network, w->d_lanes, e.columns) &&
           TAKE(network, w->d_scale, e.depth) && TAKE(network, w->x_row, e.depth) && TAKE(network, w->pair, e.depth) &&
           TAKE(network, w->d_row, e.columns) && TAKE(network, w->fold, 2 * e.depth) &&
           TAKE(network, w->fold16, e.depth) &&
           (!e.windowed || (TAKE(network, w->d, e.error_cells) && TAKE(network, w->position_nonzeros, e.terms) &&
                            TAKE(network, w->gradient, e.gradient_cells))) &&
           (!e.back_cells || TAKE(network, w->back_pairs, e.back_cells));
}

static bool take_scratch(sppim_network *network, extent e, sppim_scratch *s)
{
    const size_t terms = e.terms + 2 * SPPIM_DEPTH + SPPIM_GROUP, rows = SPPIM_BLOCK_ROWS;
    return TAKE(network, s->sums, rows * SPPIM_GROUP) && TAKE(network, s->wide, rows * SPPIM_GROUP) &&
           TAKE(network, s->gradient, SPPIM_GRADIENT_CELLS) && TAKE(network, s->index, terms) &&
           TAKE(network, s->value, terms) && TAKE(network, s->value16, terms) &&
           (!e.windowed || (TAKE(network, s->operands, rows * e.operand_ld) &&
                            (!e.wide || TAKE(network, s->operands16, rows * e.operand_ld)) &&
                            TAKE(network, s->outputs, e.position_cells) && take_list(network, e, rows, &s->list))) &&
           (!e.back_cells || (TAKE(network, s->back, SPPIM_BACK_ROWS * e.back_columns) && TAKE(network, s->map, e.map) &&
                              TAKE(network, s->back_d, SPPIM_BACK_ROWS * e.columns)));
}

/* Whether the accumulator cannot overflow in the product (A5.4): it starts at |S| <= h (128 K + 64) and adds K
 * terms. */
static bool product_fits(const sppim_layer_config *c, size_t k)
{
    const int64_t largest = ((int64_t)1 << (c->product_bits - 1)) - 1;
    return largest * (256 * (int64_t)k + SPPIM_BIAS_INPUT) < (int64_t)1 << (c->fp_accumulator.bits - 1);
}

static void describe_geometry(sppim_layer *layer)
{
    const sppim_layer_config *c = &layer->config;
    sppim_geometry g;
    sppim_geometry_of(c, &g);
    layer->windowed = g.windowed;
    layer->k = g.k;
    layer->n = (size_t)c->outputs;
    layer->inputs = (size_t)c->inputs;
    layer->channels = g.channels;
    layer->down = g.down;
    layer->across = g.across;
    layer->positions = g.positions;
    layer->pooling = g.pooling;
    layer->scores = g.scores;
    layer->outputs = g.outputs;
    layer->features = g.features;
    layer->pooled_size = sppim_pool_memory(&g.pooling, c->pooling, layer->n);
    layer->panels = sppim_ceil_div(layer->n, SPPIM_PANEL);
    layer->groups = sppim_ceil_div(layer->n, SPPIM_GROUP);
    layer->depth = sppim_round_up(layer->k + 1, SPPIM_DEPTH);
    layer->ld = sppim_round_up(layer->n, SPPIM_GROUP);
    layer->out_ld = sppim_round_up(layer->outputs, SPPIM_GROUP);
    layer->operand_ld = sppim_round_up(layer->k + 1, SPPIM_GROUP);
}

static void describe_layer(sppim_network *network, size_t l, const sppim_layer_config *config)
{
    sppim_layer *layer = &network->layers[l];
    layer->config = *config;
    layer->classes = network->classes;
    layer->place = (sppim_place){network->config.rule, l == 0, l == network->layer_count - 1};
    describe_geometry(layer);
    layer->class_ld = sppim_round_up(layer->classes, SPPIM_GROUP);
    layer->fp_finite = config->fp_accumulator.bits && !product_fits(config, layer->k);
    layer->gc_finite = config->gc_accumulator.bits != 0;
    for (int d = -128; d < 128; d++)
        layer->error_map[d & 255] = (int8_t)sppim_coarse_error(d, config->error_bits, config->error_threshold);
    layer->bytes = config->product_bits <= 8 && !layer->fp_finite;
    sppim_layer_shape(config, (int64_t)layer->classes, &layer->shape);
}

/* A4.3, and the matrix as operands of both ways. */
static void draw_codes(const sppim_network *network, sppim_layer *layer, size_t l)
{
    const sppim_key key = sppim_key_make(network->config.seed, SPPIM_STREAM_LEPU, l, 0);
    const size_t project_depth = sppim_round_up(layer->outputs, SPPIM_DEPTH);
    const size_t back_depth = sppim_round_up(layer->classes, SPPIM_DEPTH);
    for (size_t i = 0; i < layer->classes * layer->features; i++)
        layer->codes[i] = sppim_pot_code(sppim_draw16_1(key, (uint32_t)i), layer->config.pot_levels);
    for (size_t c = 0; c < layer->classes; c++)
        for (size_t j = 0; j < layer->outputs; j++) {
            const size_t feature = c * layer->features + sppim_feature_of(&layer->scores, layer->n, j);
            const int8_t r = (int8_t)sppim_pot_mac1(0, 1, layer->codes[feature]);
            layer->project[c / SPPIM_PANEL * project_depth * SPPIM_PANEL +
                           sppim_in_quads(j, sppim_column_lane(c % SPPIM_PANEL))] = r;
            layer->back_project[j / SPPIM_PANEL * back_depth * SPPIM_PANEL +
                                sppim_in_quads(c, sppim_column_lane(j % SPPIM_PANEL))] = r;
            layer->back_start[sppim_lane_of(j)] -= SPPIM_SIGNED * r;
        }
}

/* A5.1 */
static void draw_layer(sppim_network *network, size_t l)
{
    sppim_layer *layer = &network->layers[l];
    const int64_t bound = layer->config.init_bound;
    const sppim_key key = sppim_key_make(network->config.seed, SPPIM_STREAM_WEIGHTS, l, 0);
    for (size_t k = 0; k < layer->k; k++)
        for (size_t n = 0; n < layer->n; n++)
            layer->now.w[sppim_pair_place(layer, k, n)] = (int16_t)sppim_coarse_weight(
                (((2 * bound + 1) * sppim_draw16_1(key, (uint32_t)(k * layer->n + n))) >> 16) - bound,
                layer->config.weight_bits);
    if (layer->codes)
        draw_codes(network, layer, l);
}

/* MACs of the gradient of a full batch. */
static size_t gradient_macs(const sppim_network *network)
{
    size_t weights = 0;
    for (size_t l = 0; l < network->layer_count; l++)
        weights += network->layers[l].k * network->layers[l].n * network->layers[l].positions;
    return weights * (size_t)network->config.batch;
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
        !TAKE(network, network->scratch, (size_t)config->threads))
        return false;
    for (size_t l = 0; l < network->layer_count; l++)
        describe_layer(network, l, &layers[l]);
    const bool in_place = gradient_macs(network) <= IN_PLACE_MACS;
    for (size_t l = 0; l < network->layer_count; l++) {
        network->layers[l].in_place = in_place;
        if (!take_layer(network, &network->layers[l]))
            return false;
    }
    for (size_t i = 0; i < network->depth; i++)
        if (!take_flight(network, &network->flights[i]))
            return false;
    const extent e = measure(network);
    if (!take_flight(network, &network->evaluation) || !take_workspace(network, e, &network->work))
        return false;
    for (size_t i = 0; i < (size_t)config->threads; i++)
        if (!take_scratch(network, e, &network->scratch[i]))
            return false;
    return true;
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
