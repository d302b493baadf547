/* Reading and writing the state and the counters of a network. */
#include "network.h"

#include <string.h>

#include "fixed.h"

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
        return (tensor_view){layer->now.w, (layer->k + 1) * layer->n, sizeof(int16_t),
                             sppim_weight_limit(layer->config.weight_bits)};
    case SPPIM_MEANS:
        return (tensor_view){layer->now.mean, layer->channels, sizeof(int16_t), layer->config.centred ? 32768 : 0};
    case SPPIM_SCORE_BIAS:
        return (tensor_view){layer->now.score_bias, hidden ? layer->classes : 0, hidden ? sizeof(int32_t) : 0,
                             layer->place.rule == SPPIM_RULE_LOCAL ? SPPIM_SCORE_BIAS_MAX : 0};
    default: return (tensor_view){layer->codes, hidden ? layer->classes * layer->features : 0, hidden ? 1 : 0, 0};
    }
}

static sppim_status find_tensor(const sppim_network *network, size_t layer, int32_t tensor, tensor_view *view)
{
    if (!network)
        return SPPIM_ERROR_NULL;
    if (layer >= network->layer_count || !sppim_within(tensor, 0, SPPIM_TENSOR_COUNT - 1))
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

/* Weights leave and enter by rows, whatever their layout is inside. */
static void copy_weights(const sppim_layer *layer, int16_t *out)
{
    for (size_t k = 0; k <= layer->k; k++)
        for (size_t n = 0; n < layer->n; n++)
            out[k * layer->n + n] = layer->now.w[sppim_pair_place(layer, k, n)];
}

static void replace_weights(const sppim_layer *layer, const int16_t *values)
{
    for (size_t k = 0; k <= layer->k; k++)
        for (size_t n = 0; n < layer->n; n++)
            layer->now.w[sppim_pair_place(layer, k, n)] = values[k * layer->n + n];
}

sppim_status sppim_network_get(const sppim_network *network, size_t layer, int32_t tensor, void *out)
{
    tensor_view view;
    const sppim_status status = find_tensor(network, layer, tensor, &view);
    if (status != SPPIM_OK)
        return status;
    if (view.count && !out)
        return SPPIM_ERROR_NULL;
    if (tensor == SPPIM_WEIGHTS)
        copy_weights(&network->layers[layer], out);
    else if (view.count)
        memcpy(out, view.data, view.count * view.item_size);
    return SPPIM_OK;
}

static bool values_within(const tensor_view *view, const void *values)
{
    for (size_t i = 0; i < view->count; i++) {
        const int64_t x = view->item_size == 2 ? ((const int16_t *)values)[i] : ((const int32_t *)values)[i];
        if (!sppim_within(x, -view->limit, view->limit))
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
    if (tensor == SPPIM_WEIGHTS)
        replace_weights(&network->layers[layer], values);
    else if (view.count)
        memcpy(view.data, values, view.count * view.item_size);
    sppim_layer_complete(network, layer);
    atomic_flag_clear(&network->busy);
    return SPPIM_OK;
}
