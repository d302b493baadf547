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
    const size_t class_panels = sppim_ceil_div(layer->classes, SPPIM_PANEL), depth = sppim_round_up(layer->n, SPPIM_DEPTH);
    uint64_t saturated = 0;
    for (size_t p = 0; p < class_panels && !sppim_worker_stop(t->worker); p++) {
        const size_t c0 = p * SPPIM_PANEL, classes = sppim_smaller(SPPIM_PANEL, layer->classes - c0);
        int32_t bias[SPPIM_PANEL] = {0};
        for (size_t c = 0; c < classes; c++)
            bias[sppim_column_lane(c)] = layer->now.score_bias[c0 + c];
        j->network->kernels->product_s8(j->flight->x[j->l + 1] + t->first * layer->ld, layer->ld, t->rows, depth / 4,
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
            memcpy(e, output->d + b * output->ld, layer->classes);
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
    for (size_t p = 0; p < layer->panels && !sppim_worker_stop(t->worker); p++) {
        kernels->product_s8(layer->e + t->first * layer->class_ld, layer->class_ld, t->rows, depth / 4, SPPIM_SIGNED,
                            layer->back_project + p * depth * SPPIM_PANEL,
                            (sppim_start){layer->back_start + p * SPPIM_PANEL, NULL}, t->scratch->sums, SPPIM_PANEL,
                            SPPIM_LANES);
        for (size_t r = 0; r < t->rows; r++) {
            const size_t at = (t->first + r) * layer->ld + p * SPPIM_PANEL;
            saturated += kernels->gate_s32(t->scratch->sums + r * SPPIM_PANEL, j->flight->x[j->l + 1] + at,
                                           layer->config.delta_shift, layer->d + at);
        }
    }
    sppim_add_saturations(layer, SPPIM_SAT_DELTA, saturated);
}

/* A6.5 for one image: the rows of the next layer's V times its error. */
static void backpropagate(const sppim_job *j, size_t b, sppim_worker *worker)
{
    sppim_layer *layer = j->layer, *above = layer + 1;
    const int8_t *y = j->flight->x[j->l + 1] + b * layer->ld, *d_above = above->d + b * above->ld;
    int8_t *d = layer->d + b * layer->ld;
    uint64_t saturated = 0;
    for (size_t i = 0; i < layer->n; i++) {
        int64_t sum = 0;
        for (size_t t = 0; y[i] > 0 && t < above->n; t++)
            if (d_above[t])
                sum += d_above[t] * sppim_product_weight_at(above, &above->now, i, t);
        const int64_t rounded = sppim_shr(sum, above->config.bp_shift, SPPIM_RNU);
        d[i] = (int8_t)sppim_sat(rounded, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
        saturated += d[i] != rounded;
        if (i % 64 == 63 && sppim_worker_stop(worker))
            return;
    }
    sppim_add_saturations(layer, SPPIM_SAT_DELTA, saturated);
}

static void output_errors(const sppim_job *j, const block *t)
{
    sppim_layer *layer = j->layer;
    uint64_t saturated = 0;
    for (size_t b = t->first; b < t->first + t->rows; b++)
        saturated += hinge_errors(j->flight->scores + b * layer->n, layer->n, (size_t)j->flight->labels[b],
                                  layer->config.margin_log2, layer->d + b * layer->ld);
    sppim_add_saturations(layer, SPPIM_SAT_ERROR, saturated);
}

static void error_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const block t = {index * j->rows, sppim_smaller(j->rows, j->flight->n - index * j->rows),
                     &j->network->scratch[worker->id], worker};
    if (j->layer->place.output) {
        output_errors(j, &t);
    } else if (j->layer->place.rule == SPPIM_RULE_BP) {
        for (size_t r = 0; r < t.rows; r++)
            backpropagate(j, t.first + r, worker);
    } else {
        (j->layer->place.rule == SPPIM_RULE_LOCAL ? local_errors : target_errors)(j, &t);
        back_project(j, &t);
    }
    for (size_t b = t.first; b < t.first + t.rows; b++) {
        uint8_t bits = 0;
        j->flight->error_nonzeros[j->l * j->flight->n + b] =
            (uint32_t)j->network->kernels->census_s8(j->layer->d + b * j->layer->ld, j->layer->ld, &bits);
    }
}

bool sppim_layer_errors(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_job j = {.network = network, .layer = &network->layers[l], .l = l, .flight = flight, .rows = 32};
    return sppim_pool_run(network->pool, error_task, &j, sppim_ceil_div(flight->n, j.rows));
}
