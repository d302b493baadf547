/* EP of a layer (A6): where its errors come from. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* A6.1 for one image: e from scores; returns the number of saturated values. */
static uint64_t hinge_errors(const int64_t *scores, size_t classes, size_t label, int margin_log2, int8_t *e)
{
    uint64_t saturated = 0;
    for (size_t c = 0; c < classes; c++)
        e[c] = sppim_hinge_error(scores[c], c == label, margin_log2, &saturated);
    return saturated;
}

/* A6.3: projection through the LEPU, then the hinge. */
static void local_errors(const sppim_job *j, size_t b, int8_t *e, sppim_worker *worker)
{
    sppim_layer *layer = j->layer;
    const sppim_nonzeros y = sppim_list_row(&j->flight->x_list[j->l + 1], b);
    int64_t scores[1024];
    for (size_t c = 0; c < layer->classes; c++) {
        if (c % 16 == 15 && sppim_worker_stop(worker))
            return;
        scores[c] = layer->now.score_bias[c] + j->network->kernels->project_s8_pot(y, layer->codes + c * layer->n);
    }
    sppim_add_saturations(
        layer, SPPIM_SAT_ERROR,
        hinge_errors(scores, layer->classes, (size_t)j->flight->labels[b], layer->config.margin_log2, e));
}

/* Class errors of one image, hidden layers (A6.3, A6.4). */
static void class_errors(const sppim_job *j, size_t b, sppim_worker *worker)
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
    sppim_add_saturations(layer, SPPIM_SAT_DELTA, saturated);
}

/* A6.6 for a tile of columns of one image. */
static void back_project_tile(const sppim_job *j, size_t b, size_t column0, size_t columns)
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
static void backpropagate_tile(const sppim_job *j, size_t b, size_t column0, size_t columns)
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
    const sppim_job *j = context;
    sppim_layer *layer = j->layer;
    const bool bp = layer->place.rule == SPPIM_RULE_BP;
    if (layer->place.output) {
        sppim_add_saturations(layer, SPPIM_SAT_ERROR,
                              hinge_errors(j->flight->scores + b * layer->n, layer->n, (size_t)j->flight->labels[b],
                                           layer->config.margin_log2, layer->d + b * layer->n));
        return;
    }
    if (!bp)
        class_errors(j, b, worker);
    for (size_t c = 0; c < layer->n && !sppim_worker_stop(worker); c += SPPIM_TILE_COLUMNS)
        (bp ? backpropagate_tile : back_project_tile)(j, b, c, sppim_smaller(SPPIM_TILE_COLUMNS, layer->n - c));
}

bool sppim_predict_errors(sppim_job *job)
{
    return sppim_pool_run(job->network->pool, error_task, job, job->flight->n);
}
