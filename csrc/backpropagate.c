/* Rule bp (A6.5, A12.6): errors of the outputs of a layer from those of the layer above. */
#include "job.h"

#include <string.h>

#include "fixed.h"

/* V of the layer above (j->layer) transposed, a panel of its rows as columns. */
static void transpose_task(void *context, size_t panel, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *above = j->layer;
    int16_t *pairs = j->network->work.back_pairs + panel * above->ld * SPPIM_PANEL;
    memset(pairs, 0, above->ld * SPPIM_PANEL * sizeof *pairs);
    for (size_t c = 0; c < sppim_smaller(SPPIM_PANEL, above->k - panel * SPPIM_PANEL); c++)
        for (size_t n = 0; n < above->n; n++)
            pairs[sppim_in_pairs(n, sppim_column_lane(c))] =
                (int16_t)sppim_product_weight_at(above, &above->now, panel * SPPIM_PANEL + c, n);
}

/* Rows of errors times that: what each gives to the operands it came from. */
static void multiply(const sppim_job *j, const int8_t *d, size_t rows, sppim_scratch *s)
{
    static const int64_t zeros[SPPIM_PANEL];
    const sppim_layer *above = j->layer;
    const size_t ld = sppim_round_up(above->k, SPPIM_PANEL);
    sppim_widen(d, rows * above->ld, s->back_d);
    for (size_t k = 0; k < above->k; k += SPPIM_PANEL)
        sppim_product_words(j->network->kernels, s->back_d, above->ld, rows, sppim_ceil_div(above->n, 2),
                            sppim_exact_steps(above), j->network->work.back_pairs + k * above->ld, 0, zeros, s->back + k,
                            ld);
}

/* The sums of one image, requantized and gated, into delta of the layer below. */
static void finish_image(const sppim_job *j, size_t b, const int64_t *sums)
{
    sppim_layer *below = j->layer - 1;
    const int8_t *y = j->flight->x[j->l] + b * below->out_ld;
    int8_t *delta = below->delta + b * below->out_ld;
    uint64_t saturated = 0;
    for (size_t i = 0; i < below->outputs; i++) {
        const int64_t rounded = y[i] > 0 ? sppim_shr(sums[i], j->layer->config.bp_shift, SPPIM_RNU) : 0;
        delta[i] = (int8_t)sppim_sat(rounded, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
        saturated += delta[i] != rounded;
    }
    sppim_add_saturations(below, SPPIM_SAT_DELTA, saturated);
}

static void vector_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *above = j->layer;
    sppim_scratch *s = &j->network->scratch[worker->id];
    const size_t first = index * SPPIM_BACK_ROWS, rows = sppim_smaller(SPPIM_BACK_ROWS, j->flight->n - first);
    multiply(j, above->delta + first * above->ld, rows, s);
    for (size_t r = 0; r < rows; r++)
        finish_image(j, first + r, s->back + r * sppim_round_up(above->k, SPPIM_PANEL));
}

static void window_task(void *context, size_t b, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *above = j->layer;
    sppim_scratch *s = &j->network->scratch[worker->id];
    const size_t ld = sppim_round_up(above->k, SPPIM_PANEL);
    sppim_layer_spread(above, j->flight, j->l, b, s->outputs);
    memset(s->map, 0, above->inputs * sizeof *s->map);
    for (size_t first = 0; first < above->positions && !sppim_worker_stop(worker); first += SPPIM_BACK_ROWS) {
        const size_t rows = sppim_smaller(SPPIM_BACK_ROWS, above->positions - first);
        multiply(j, s->outputs + first * above->ld, rows, s);
        for (size_t r = 0; r < rows; r++)
            sppim_fold_position(&above->config.window, above->across, s->back + r * ld, first + r, s->map);
    }
    finish_image(j, b, s->map);
}

bool sppim_layer_backpropagate(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *above = &network->layers[l + 1];
    sppim_job j = {.network = network, .layer = above, .l = l + 1, .flight = flight};
    return sppim_pool_run(network->pool, transpose_task, &j, sppim_ceil_div(above->k, SPPIM_PANEL)) &&
           (above->windowed ? sppim_pool_run(network->pool, window_task, &j, flight->n)
                            : sppim_pool_run(network->pool, vector_task, &j,
                                             sppim_ceil_div(flight->n, SPPIM_BACK_ROWS)));
}
