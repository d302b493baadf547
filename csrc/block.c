#include "block.h"

#include <string.h>

#include "fixed.h"

/* ---- operands ------------------------------------------------------------------------------------------------------ */

void sppim_list_operands(const sppim_job *j, const int8_t *x, sppim_list *list, size_t row)
{
    const int flip = j->layer->bytes ? sppim_input_flip(j->layer, j->flight) : SPPIM_UNSIGNED; /* words keep their signs */
    const size_t at = row * list->ld;
    const sppim_nonzeros found =
        sppim_list_s8(j->network->kernels, x, j->layer->k, flip, list->index + at, list->value + at);
    list->negatives[row] = (uint32_t)found.negatives;
    list->count[row] = (uint32_t)found.count;
    for (size_t i = 0; !j->layer->bytes && i < found.count; i++)
        list->value16[at + i] = (int8_t)found.value[i];
}

static sppim_nonzeros listed(const sppim_block *t, size_t r)
{
    const sppim_list *list = t->list;
    const size_t row = t->first + r, at = row * list->ld;
    return (sppim_nonzeros){.index = list->index + at, .value = list->value + at,
                            .value16 = list->value16 ? list->value16 + at : NULL, .negatives = list->negatives[row],
                            .count = list->count[row]};
}

void sppim_block_columns(sppim_block *t, size_t group)
{
    const sppim_layer *layer = t->job->layer;
    t->column = group * SPPIM_GROUP;
    t->width = sppim_smaller(t->job->span, layer->groups - group) * SPPIM_GROUP;
    t->panels = sppim_smaller(t->width / SPPIM_PANEL, layer->panels - 2 * group);
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

/* Sums of 8-bit products by lane, into scratch->sums. */
static void multiply_bytes(const sppim_block *t)
{
    const sppim_job *j = t->job;
    const sppim_layer *layer = j->layer;
    const int flip = sppim_input_flip(layer, j->flight);
    const int32_t *start = flip ? j->network->work.signed_start : layer->now.start_lanes;
    for (size_t p = 0; p < t->panels; p++) {
        const size_t column = t->column + p * SPPIM_PANEL;
        j->network->kernels->product_s8(t->x, t->ld, t->rows, sppim_ceil_div(layer->k, 4), flip,
                                        layer->now.quads + column * layer->depth, (sppim_start){start + column, NULL},
                                        t->scratch->sums + p * SPPIM_PANEL, t->width, SPPIM_LANES);
    }
}

static void skip_bytes(const sppim_block *t)
{
    const sppim_job *j = t->job;
    const sppim_layer *layer = j->layer;
    for (size_t r = 0; r < t->rows; r++)
        j->network->kernels->product_sparse_s8(listed(t, r), layer->now.rows + t->column * layer->depth,
                                               layer->depth * SPPIM_GROUP, t->width / SPPIM_GROUP,
                                               (sppim_start){layer->now.start_lanes + t->column, NULL},
                                               t->scratch->sums + r * t->width, SPPIM_LANES);
}

/* Sums of 16-bit products by column, start included, into scratch->wide. */
static void multiply_words(const sppim_block *t)
{
    const sppim_job *j = t->job;
    const sppim_layer *layer = j->layer;
    for (size_t p = 0; p < t->panels; p++) {
        const size_t column = t->column + p * SPPIM_PANEL;
        sppim_product_words(j->network->kernels, t->x16, t->ld, t->rows, sppim_ceil_div(layer->k, 2),
                            sppim_exact_steps(layer), layer->now.pairs + column * layer->depth, 0,
                            layer->now.start + column, t->scratch->wide + p * SPPIM_PANEL, t->width);
    }
}

static void skip_words(const sppim_block *t)
{
    const sppim_job *j = t->job;
    const sppim_layer *layer = j->layer;
    for (size_t r = 0; r < t->rows; r++)
        sppim_product_sparse_words(j->network->kernels, listed(t, r), sppim_exact_steps(layer),
                                   layer->now.words + t->column * layer->depth, layer->depth * SPPIM_GROUP,
                                   t->width / SPPIM_GROUP, layer->now.start + t->column, t->scratch->wide + r * t->width);
}

/* A5.4 with an accumulator that may overflow. */
static void multiply_finite(const sppim_block *t)
{
    const sppim_job *j = t->job;
    const sppim_accumulator accumulator = j->layer->config.fp_accumulator;
    uint64_t changed = 0;
    for (size_t p = 0; p < t->panels; p++)
        for (size_t r = 0; r < t->rows; r++) {
            const size_t column = t->column + p * SPPIM_PANEL;
            int64_t *wide = t->scratch->wide + r * t->width + p * SPPIM_PANEL;
            int32_t sums[SPPIM_PANEL];
            for (size_t c = 0; c < SPPIM_PANEL; c++) {
                const int64_t start = j->layer->now.start[column + c], fitted = sppim_fit1(start, accumulator);
                changed += fitted != start;
                sums[sppim_column_lane(c)] = (int32_t)fitted;
            }
            changed += j->network->kernels->product_finite_s16(
                listed(t, r), j->layer->now.pairs + column * j->layer->depth, accumulator, sums);
            for (size_t c = 0; c < SPPIM_PANEL; c++)
                wide[c] = sums[sppim_column_lane(c)];
        }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACC, changed);
}

static bool finish_from_sums(const sppim_job *j)
{
    const sppim_layer_config *c = &j->layer->config;
    return j->layer->bytes && !j->layer->place.output && c->fp_round == SPPIM_RNU && c->fp_shift <= 31;
}

static void sums_to_wide(const sppim_block *t)
{
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->panels * SPPIM_PANEL; c++)
            t->scratch->wide[r * t->width + c] = t->scratch->sums[r * t->width + sppim_lane_of(c)];
}

void sppim_block_multiply(const sppim_block *t)
{
    const sppim_job *j = t->job;
    if (j->layer->bytes) {
        (j->skip ? skip_bytes : multiply_bytes)(t);
        if (!finish_from_sums(j))
            sums_to_wide(t);
    } else {
        (j->layer->fp_finite ? multiply_finite : j->skip ? skip_words : multiply_words)(t);
    }
}

/* ---- results ------------------------------------------------------------------------------------------------------- */

void sppim_block_scores(const sppim_block *t, int64_t *scores)
{
    const size_t n = t->job->layer->n;
    for (size_t r = 0; r < t->rows; r++)
        memcpy(scores + r * n + t->column, t->scratch->wide + r * t->width,
               sppim_smaller(t->width, n - t->column) * sizeof *scores);
}

void sppim_block_activations(const sppim_block *t, int8_t *y, size_t ld)
{
    const sppim_layer_config *c = &t->job->layer->config;
    const sppim_kernels *kernels = t->job->network->kernels;
    const bool narrow = finish_from_sums(t->job);
    size_t saturated = 0;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t p = 0; p < t->panels; p++) {
            const size_t at = r * t->width + p * SPPIM_PANEL;
            int8_t *to = y + r * ld + t->column + p * SPPIM_PANEL;
            saturated += narrow ? kernels->requantize_relu_s32(t->scratch->sums + at, c->fp_shift, c->activation_max, to)
                                : kernels->requantize_relu_s64(t->scratch->wide + at, c->fp_shift, c->fp_round,
                                                               c->activation_max, to);
        }
    sppim_add_saturations(t->job->layer, SPPIM_SAT_ACTIVATION, saturated);
}
