/* EP of a layer (A6): where its errors come from. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* A6.1 for one image, e from scores [classes]; returns the number of saturated values. First as if no class were the
 * label, without a branch in the loop. */
static uint64_t hinge_errors(const int64_t *scores, size_t classes, size_t label, int margin_log2, int8_t *e)
{
    uint64_t saturated = 0, mistaken = 0;
    for (size_t c = 0; c < classes; c++)
        e[c] = sppim_hinge_error(scores[c], false, margin_log2, &saturated);
    if (label < classes) {
        sppim_hinge_error(scores[label], false, margin_log2, &mistaken);
        e[label] = sppim_hinge_error(scores[label], true, margin_log2, &saturated);
    }
    return saturated - mistaken;
}

/* Images of one task. */
typedef struct block {
    size_t first, rows;
    sppim_scratch *scratch;
    sppim_worker *worker;
} block;

/* A6.3 for some images: projection through the LEPU, a panel of classes at a time, then the hinge. */
static void local_errors(const sppim_job *j, const block *t)
{
    sppim_layer *layer = j->layer;
    const size_t class_panels = sppim_ceil_div(layer->classes, SPPIM_PANEL), depth = sppim_round_up(layer->outputs, SPPIM_DEPTH);
    uint64_t saturated = 0;
    for (size_t p = 0; p < class_panels && !sppim_worker_stop(t->worker); p++) {
        const size_t c0 = p * SPPIM_PANEL, classes = sppim_smaller(SPPIM_PANEL, layer->classes - c0);
        int32_t bias[SPPIM_PANEL] = {0};
        for (size_t c = 0; c < classes; c++)
            bias[sppim_column_lane(c)] = layer->now.score_bias[c0 + c];
        j->network->kernels->product_s8(j->flight->x[j->l + 1] + t->first * layer->out_ld, layer->out_ld, t->rows, depth / 4,
                                        SPPIM_UNSIGNED, layer->project + p * depth * SPPIM_PANEL,
                                        (sppim_start){bias, NULL}, t->scratch->sums, SPPIM_PANEL, SPPIM_COLUMNS);
        for (size_t r = 0; r < t->rows; r++) {
            const size_t b = t->first + r, label = (size_t)j->flight->labels[b] - c0; /* wraps: none of these */
            int64_t scores[SPPIM_PANEL];
            for (size_t c = 0; c < classes; c++)
                scores[c] = t->scratch->sums[r * SPPIM_PANEL + c];
            saturated += hinge_errors(scores, classes, label, layer->config.margin_log2,
                                      layer->e + b * layer->class_ld + c0);
        }
    }
    sppim_add_saturations(layer, SPPIM_SAT_ERROR, saturated);
}

/* A6.4 */
static void target_errors(const sppim_job *j, const block *t)
{
    sppim_layer *layer = j->layer;
    const sppim_layer *output = &j->network->layers[j->network->layer_count - 1];
    for (size_t b = t->first; b < t->first + t->rows; b++) {
        int8_t *e = layer->e + b * layer->class_ld;
        if (layer->place.rule == SPPIM_RULE_DFA) {
            memcpy(e, output->delta + b * output->out_ld, layer->classes);
        } else {
            memset(e, 0, layer->classes);
            e[j->flight->labels[b]] = -64;
        }
    }
}

/* A6.6 for some images. */
static void back_project(const sppim_job *j, const block *t)
{
    sppim_layer *layer = j->layer;
    const sppim_kernels *kernels = j->network->kernels;
    const size_t depth = sppim_round_up(layer->classes, SPPIM_DEPTH);
    size_t saturated = 0;
    for (size_t p = 0; p < sppim_ceil_div(layer->outputs, SPPIM_PANEL) && !sppim_worker_stop(t->worker); p++) {
        kernels->product_s8(layer->e + t->first * layer->class_ld, layer->class_ld, t->rows, depth / 4, SPPIM_SIGNED,
                            layer->back_project + p * depth * SPPIM_PANEL,
                            (sppim_start){layer->back_start + p * SPPIM_PANEL, NULL}, t->scratch->sums, SPPIM_PANEL,
                            SPPIM_LANES);
        for (size_t r = 0; r < t->rows; r++) {
            const size_t at = (t->first + r) * layer->out_ld + p * SPPIM_PANEL;
            saturated += kernels->gate_s32(t->scratch->sums + r * SPPIM_PANEL, j->flight->x[j->l + 1] + at,
                                           layer->config.delta_shift, layer->delta + at);
        }
    }
    sppim_add_saturations(layer, SPPIM_SAT_DELTA, saturated);
}

static void output_errors(const sppim_job *j, const block *t)
{
    sppim_layer *layer = j->layer;
    uint64_t saturated = 0;
    for (size_t b = t->first; b < t->first + t->rows; b++)
        saturated += hinge_errors(j->flight->scores + b * layer->n, layer->n, (size_t)j->flight->labels[b],
                                  layer->config.margin_log2, layer->delta + b * layer->out_ld);
    sppim_add_saturations(layer, SPPIM_SAT_ERROR, saturated);
}

/* ---- what is not zero --------------------------------------------------------------------------------------------- */

void sppim_layer_spread(const sppim_layer *layer, const sppim_flight *flight, size_t l, size_t b, int8_t *d)
{
    const uint8_t *keep = flight->pooled[l];
    sppim_spread_errors(&layer->pooling, layer->config.pooling, layer->delta + b * layer->out_ld,
                        keep ? keep + b * layer->pooled_size : NULL, layer->n, d, layer->ld);
}

/* Non-zero errors of positions: as many as of outputs, unless pooling has spread each of them. */
static size_t count_errors(const sppim_job *j, size_t b, sppim_scratch *s)
{
    const sppim_layer *layer = j->layer;
    uint8_t bits = 0;
    if (layer->config.pooling != SPPIM_POOLING_MEAN)
        return j->network->kernels->census_s8(layer->delta + b * layer->out_ld, layer->outputs, &bits);
    sppim_layer_spread(layer, j->flight, j->l, b, s->outputs);
    return j->network->kernels->census_s8(s->outputs, layer->positions * layer->ld, &bits);
}

/* Features of one image that are not zero (A12.4): activations are not negative, so no sum of some vanishes. */
static size_t count_features(const sppim_job *j, const int8_t *y)
{
    const sppim_tiling *t = &j->layer->scores;
    const size_t n = j->layer->n;
    size_t found = 0;
    uint8_t bits = 0;
    for (size_t f = 0; f < t->down * t->across; f++) {
        const size_t top = f / t->across * t->size, left = f % t->across * t->size;
        const size_t rows = sppim_smaller(t->size, t->height - top), columns = sppim_smaller(t->size, t->width - left);
        int8_t any[SPPIM_GROUP];
        for (size_t c = 0; c < n; c += SPPIM_GROUP) {
            const size_t width = sppim_smaller(SPPIM_GROUP, n - c);
            memset(any, 0, sizeof any);
            for (size_t p = 0; p < rows * columns; p++) {
                const int8_t *from = y + ((top + p / columns) * t->width + left + p % columns) * n + c;
                for (size_t i = 0; i < width; i++)
                    any[i] |= from[i];
            }
            found += j->network->kernels->census_s8(any, width, &bits);
        }
    }
    return found;
}

/* A6.8 */
static void coarsen_errors(const sppim_layer *layer, int8_t *restrict delta)
{
    if (layer->config.error_bits < 8 || layer->config.error_threshold)
        for (size_t i = 0; i < layer->outputs; i++)
            delta[i] = layer->error_map[(uint8_t)delta[i]];
}

static void finish_image(const sppim_job *j, size_t b, sppim_scratch *s)
{
    sppim_layer *layer = j->layer;
    coarsen_errors(layer, layer->delta + b * layer->out_ld);
    j->flight->error_nonzeros[j->l * j->flight->n + b] = (uint32_t)count_errors(j, b, s);
    if (layer->feature_nonzeros && !layer->place.output)
        layer->feature_nonzeros[b] = (uint32_t)count_features(j, j->flight->x[j->l + 1] + b * layer->out_ld);
}

/* ---- the phase ----------------------------------------------------------------------------------------------------- */

static void error_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const block t = {index * j->rows, sppim_smaller(j->rows, j->flight->n - index * j->rows),
                     &j->network->scratch[worker->id], worker};
    if (j->layer->place.output) {
        output_errors(j, &t);
    } else if (j->layer->place.rule != SPPIM_RULE_BP) {
        (j->layer->place.rule == SPPIM_RULE_LOCAL ? local_errors : target_errors)(j, &t);
        back_project(j, &t);
    }
    for (size_t b = t.first; b < t.first + t.rows; b++)
        finish_image(j, b, t.scratch);
}

bool sppim_layer_errors(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .flight = flight, .rows = layer->windowed ? 4 : 32};
    if (!layer->place.output && layer->place.rule == SPPIM_RULE_BP && !sppim_layer_backpropagate(network, l, flight))
        return false;
    return sppim_pool_run(network->pool, error_task, &j, sppim_ceil_div(flight->n, j.rows));
}
