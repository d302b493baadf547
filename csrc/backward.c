/* A layer's way back: EP, GC, update, and its counters. */
#include "job.h"

static uint64_t nonzero_errors(const int8_t *e, size_t classes)
{
    uint64_t count = 0;
    for (size_t c = 0; c < classes; c++)
        count += e[c] != 0;
    return count;
}

static uint64_t pot_done(const sppim_job *j, size_t b)
{
    const sppim_layer *layer = j->layer;
    if (layer->place.output || layer->place.rule == SPPIM_RULE_BP)
        return 0;
    const uint64_t y = sppim_list_row(&j->flight->x_list[j->l + 1], b).count;
    const uint64_t e = nonzero_errors(layer->e + b * layer->classes, layer->classes);
    return y * (e + (layer->place.rule == SPPIM_RULE_LOCAL ? layer->classes : 0));
}

/* False: interrupted. */
static bool count_backward(const sppim_job *j)
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
        if (b % 64 == 63 && sppim_pool_stop(j->network->pool))
            return false;
    }
    sppim_count_backward(&layer->shape, layer->place, &facts, &layer->delta);
    return true;
}

bool sppim_layer_backward(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job job = {.network = network, .layer = layer, .l = l, .flight = flight};
    if (!sppim_predict_errors(&job) || !sppim_compress(network, layer->d, flight->n, &layer->d_list) ||
        !sppim_update_layer(&job) || !sppim_layer_derive(network, l, &layer->next) || !count_backward(&job))
        return false;
    layer->updated = true;
    return true;
}
