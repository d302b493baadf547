/* The tick (A8): batches in flight, the clock edge, and inference. */
#include "network.h"

#include <string.h>

#include "fixed.h"

/* The flight that entered `age` ticks ago; null: none, or an empty place. */
static sppim_flight *flight_of_age(sppim_network *network, size_t age)
{
    if (age > network->ticks)
        return NULL;
    sppim_flight *flight = &network->flights[(network->ticks - age) % network->depth];
    return flight->occupied ? flight : NULL;
}

/* Copies, then checks the copy: the caller's array may change meanwhile. */
static bool take_labels(const sppim_network *network, const int32_t *labels, size_t n, int32_t *copy)
{
    if (n)
        memcpy(copy, labels, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        if (copy[i] < 0 || (size_t)copy[i] >= network->classes)
            return false;
    return true;
}

/* Copies images into rows of x[0]; what lies beyond the inputs stays zero. */
static void take_images(const sppim_network *network, const int8_t *x, size_t n, sppim_flight *flight)
{
    const size_t k = network->layers[0].inputs, ld = sppim_input_ld(&network->layers[0]);
    flight->n = n;
    flight->negative = false;
    for (size_t b = 0; b < n; b++)
        memcpy(flight->x[0] + b * ld, x + b * k, k);
}

/* A batch, its labels already taken, or an empty place. */
static bool enter(sppim_network *network, sppim_flight *flight, const int8_t *x, size_t n, int rate_shift)
{
    flight->occupied = n > 0;
    if (!n)
        return true;
    flight->batch = network->batches;
    flight->rate_shift = rate_shift;
    take_images(network, x, n, flight);
    return sppim_survey_inputs(network, 0, flight);
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

/* FP of all layers, then EP, then GC and update: only the last changes weights, and then only a layer's own. The
 * order of the layers follows the data: an image goes up, an error comes down. */
static bool work(sppim_network *network)
{
    const size_t count = network->layer_count;
    for (size_t i = 0; i < count; i++) {
        const size_t l = network->config.execution == SPPIM_PIPELINED ? count - 1 - i : i;
        sppim_flight *flight = flight_of_age(network, forward_age(network, l));
        if (flight && !sppim_layer_forward(network, l, flight))
            return false;
    }
    for (size_t l = count; l-- > 0;) {
        sppim_flight *flight = flight_of_age(network, backward_age(network, l));
        if (flight && !sppim_layer_errors(network, l, flight))
            return false;
    }
    if (network->layers[0].in_place) /* from here on there is no way back */
        sppim_pool_set_poll(network->pool, NULL, NULL);
    for (size_t l = 0; l < count; l++) {
        sppim_flight *flight = flight_of_age(network, backward_age(network, l));
        if (flight && !sppim_layer_update(network, l, flight))
            return false;
    }
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
        memset(&layer->counted, 0, sizeof layer->counted);
        for (int i = 0; i < SPPIM_SATS; i++)
            atomic_store(&layer->saturations[i], 0);
    }
}

/* The clock edge. */
static void commit(sppim_network *network)
{
    for (size_t l = 0; l < network->layer_count; l++) {
        sppim_layer *layer = &network->layers[l];
        layer->counted.acc_saturations = layer->saturations[SPPIM_SAT_ACC];
        layer->counted.activation_saturations = layer->saturations[SPPIM_SAT_ACTIVATION];
        layer->counted.error_saturations = layer->saturations[SPPIM_SAT_ERROR];
        layer->counted.delta_saturations = layer->saturations[SPPIM_SAT_DELTA];
        layer->counted.weight_saturations = layer->saturations[SPPIM_SAT_WEIGHT];
        add_counters(&layer->counters, &layer->counted);
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

sppim_status sppim_network_tick(sppim_network *network, const int8_t *x, const int32_t *labels, size_t n,
                                int32_t rate_shift, sppim_poll poll, void *user, sppim_trace *trace)
{
    if (!network || (n && (!x || !labels)))
        return SPPIM_ERROR_NULL;
    if (n > (size_t)network->config.batch)
        return SPPIM_ERROR_SHAPE;
    if (!sppim_within(rate_shift, 0, 16))
        return SPPIM_ERROR_RANGE;
    if (atomic_flag_test_and_set(&network->busy))
        return SPPIM_ERROR_BUSY;
    sppim_flight *flight = &network->flights[network->ticks % network->depth];
    sppim_status status = SPPIM_ERROR_RANGE;
    if (take_labels(network, labels, n, flight->labels)) {
        sppim_pool_set_poll(network->pool, poll, user);
        begin(network);
        const bool finished = enter(network, flight, x, n, rate_shift) && work(network);
        status = finished ? SPPIM_OK : SPPIM_ERROR_INTERRUPTED;
    }
    if (status == SPPIM_OK) {
        commit(network);
        retire(network, trace);
        network->ticks++;
        network->batches += n > 0;
    } else {
        flight->occupied = false;
    }
    atomic_flag_clear(&network->busy);
    return status;
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
    take_images(network, x, n, flight);
    if (!sppim_survey_inputs(network, 0, flight))
        return false;
    for (size_t l = 0; l < network->layer_count; l++)
        if (!sppim_layer_forward(network, l, flight))
            return false;
    memcpy(scores, flight->scores, n * network->classes * sizeof *scores);
    return true;
}

sppim_status sppim_network_scores(sppim_network *network, const int8_t *x, size_t n, sppim_poll poll, void *user,
                                  int64_t *scores)
{
    if (!network || (n && (!x || !scores)))
        return SPPIM_ERROR_NULL;
    if (atomic_flag_test_and_set(&network->busy))
        return SPPIM_ERROR_BUSY;
    sppim_pool_set_poll(network->pool, poll, user);
    bool finished = true;
    const size_t batch = (size_t)network->config.batch;
    for (size_t b = 0; finished && b < n; b += batch)
        finished = score_batch(network, x + b * network->layers[0].inputs, n - b < batch ? n - b : batch,
                               scores + b * network->classes);
    atomic_flag_clear(&network->busy);
    return finished ? SPPIM_OK : SPPIM_ERROR_INTERRUPTED;
}
