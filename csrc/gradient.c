/* GC of a layer, its update and running means (A7, A6.7, A12).
 *
 * The gradient is a product like any other: its operands are the columns of x, its weights the errors d, its terms
 * the images, or the positions of some images at a time. Terms without an error are left out; the sums that are left
 * go straight into the update, tile by tile. */
#include "job.h"

#include <string.h>

#include "fixed.h"

static size_t padded_terms(const sppim_job *j) { return sppim_round_up(j->terms, SPPIM_DEPTH); }

/* ---- preparation ---------------------------------------------------------------------------------------------- */

/* Whether the update takes a single image as it is, without summing a gradient. */
static bool single_image(const sppim_job *j)
{
    return j->terms == 1 && !j->skip && !j->layer->gc_finite && !j->layer->windowed &&
           j->layer->config.weight_bits == 16;
}

/* The errors of one group of columns as weights: in the layout that is wanted. */
static void pack_errors(const sppim_job *j, size_t group)
{
    const sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    const size_t column = group * SPPIM_GROUP, at = column * padded_terms(j);
    if (!layer->gc_finite) {
        j->network->kernels->pack_s8(j->d + column, work->active, j->terms, layer->ld,
                                     j->skip ? NULL : work->d_quads + at, padded_terms(j) * SPPIM_PANEL,
                                     j->skip ? work->d_rows + at : NULL);
        return;
    }
    for (size_t i = 0; i < j->terms; i++)
        for (size_t c = column; c < column + SPPIM_GROUP; c++)
            work->d_pairs[c / SPPIM_PANEL * SPPIM_PANEL * padded_terms(j) +
                          sppim_in_pairs(i, sppim_column_lane(c % SPPIM_PANEL))] =
                j->d[work->active[i] * layer->ld + c];
}

/* D of one group of columns: of these terms and, for a finite accumulator, those before. */
static void sum_errors(const sppim_job *j, size_t column)
{
    sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    int32_t sum[SPPIM_GROUP] = {0};
    for (size_t b = 0; b < j->images * layer->positions; b += 255)
        j->network->kernels->tally_s8(j->d + b * layer->ld + column,
                                      sppim_smaller(255, j->images * layer->positions - b), layer->ld, SPPIM_GROUP, sum,
                                      layer->error_column_nonzeros + column);
    for (size_t i = 0; i < SPPIM_GROUP; i++) {
        const size_t c = column + i, lane = sppim_lane_of(c);
        layer->error_sum[c] += sum[i];
        work->d_lanes[lane] = layer->gc_finite ? layer->error_sum[c] : sum[i];
        if (single_image(j))
            work->d_row[lane] = (int16_t)sum[i];
    }
}

static void prepare_errors(const sppim_job *j, size_t group)
{
    sum_errors(j, group * SPPIM_GROUP);
    if (!single_image(j))
        pack_errors(j, group);
}

/* A7.4: floor((512 X + n) / (2 n)) for an input's sum X over n images. */
static int64_t batch_mean(int64_t sum, int64_t n)
{
    const int64_t twice = 512 * sum + n;
    return twice >= 0 ? twice / (2 * n) : -((-twice + 2 * n - 1) / (2 * n));
}

/* The running means of some inputs, and m (A7.4). Where n divides 256, the mean of a batch is exact: no division. */
static void update_means(const int32_t *restrict sum, const int16_t *restrict mean, size_t count, int32_t n,
                         int16_t *restrict next_mean, int8_t *restrict next_m)
{
    const int32_t exact = 256 % n ? 0 : 256 / n;
    for (size_t i = 0; i < count; i++) {
        const int32_t batch = exact ? sum[i] * exact : (int32_t)batch_mean(sum[i], n);
        next_mean[i] = sppim_next_mean(mean[i], batch);
        next_m[i] = sppim_mean_byte(next_mean[i]);
    }
}

/* x - m of an image, and what D counts in the gradient of a row. */
static void subtract_means(const int8_t *restrict x, const int8_t *restrict m, size_t count, int flip,
                           int16_t *restrict row, int32_t *restrict scale)
{
    for (size_t i = 0; i < count; i++) {
        row[i] = (int16_t)(x[i] - m[i]);
        scale[i] = -m[i] - flip;
    }
}

/* Up to 64 inputs, the constant of the bias after the last one, and their means: the columns of x over the images
 * with errors, and what D counts in the gradient (A7.1); or x - m of a single image. */
static void prepare_inputs(const sppim_job *j, size_t first)
{
    const sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    const int flip = sppim_input_flip(j->layer, j->flight);
    const size_t ld = work->terms_ld, last = sppim_smaller(first + SPPIM_GROUP, layer->depth);
    const size_t inputs = first < layer->k ? sppim_smaller(layer->k, last) : first; /* end of the inputs among them */
    const int8_t *x = j->flight->x[j->l] + first;
    if (first < layer->k && !single_image(j))
        j->network->kernels->transpose_s8(x, work->active, j->terms, sppim_input_ld(layer), SPPIM_GROUP,
                                          work->x_columns + first * ld, ld);
    subtract_means(x + work->active[0] * sppim_input_ld(layer), layer->now.m + first, inputs - first, flip,
                   work->x_row + first, work->d_scale + first);
    for (size_t k = inputs; k < last; k++) {
        work->d_scale[k] = -flip;
        work->x_row[k] = k == layer->k ? SPPIM_BIAS_INPUT : 0;
        memset(work->x_columns + k * ld, 0, padded_terms(j));
        memset(work->x_columns + k * ld, work->x_row[k], j->terms);
    }
    if (layer->config.centred)
        update_means(j->flight->x_sum[j->l] + first, layer->now.mean + first, inputs - first, (int32_t)j->flight->n,
                     layer->next.mean + first, layer->next.m + first);
}

static void prepare_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    if (index < j->layer->groups)
        prepare_errors(j, index);
    else
        prepare_inputs(j, (index - j->layer->groups) * SPPIM_GROUP);
}

static bool prepare_images(sppim_job *j)
{
    return sppim_pool_run(j->network->pool, prepare_task, j,
                          j->layer->groups + sppim_ceil_div(j->layer->depth, SPPIM_GROUP));
}

/* The images that have errors. */
static void find_active_images(sppim_job *j)
{
    j->network->work.active[0] = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        if (j->flight->error_nonzeros[j->l * j->flight->n + b])
            j->network->work.active[j->terms++] = (uint16_t)b;
}

/* ---- preparation with a window (A12) ------------------------------------------------------------------------------ */

/* Errors of the positions of one image, and which have any. */
static void spread_task(void *context, size_t i, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    if (!sppim_errors_as_they_are(layer))
        sppim_layer_spread(layer, j->flight, j->l, j->part + i, work->d + i * layer->positions * layer->ld);
    for (size_t p = i * layer->positions; p < (i + 1) * layer->positions; p++) {
        uint8_t bits = 0;
        work->position_nonzeros[p] =
            (uint32_t)j->network->kernels->census_s8(j->d + p * layer->ld, layer->n, &bits);
    }
}

static void find_active_positions(sppim_job *j)
{
    sppim_workspace *work = &j->network->work;
    for (size_t p = 0; p < j->images * j->layer->positions; p++)
        if (work->position_nonzeros[p])
            work->active[j->terms++] = (uint16_t)p;
}

/* Operands of some active positions, the constant of the bias after them, as columns. */
static void unfold_columns(const sppim_job *j, size_t first, sppim_scratch *s)
{
    sppim_layer *layer = j->layer;
    sppim_workspace *work = &j->network->work;
    const size_t rows = sppim_smaller(SPPIM_BLOCK_ROWS, j->terms - first);
    uint16_t order[SPPIM_BLOCK_ROWS];
    uint64_t pairs = 0;
    for (size_t r = 0; r < rows; r++) {
        const size_t term = work->active[first + r], b = j->part + term / layer->positions;
        int8_t *operands = s->operands + r * layer->operand_ld;
        uint8_t bits = 0;
        order[r] = (uint16_t)r;
        sppim_unfold_positions(&layer->config.window, layer->across, j->flight->x[j->l] + b * sppim_input_ld(layer),
                               layer->now.m, term % layer->positions, 1, operands, 0);
        memset(operands + layer->k, 0, layer->operand_ld - layer->k);
        operands[layer->k] = SPPIM_BIAS_INPUT;
        pairs += (uint64_t)work->position_nonzeros[term] * j->network->kernels->census_s8(operands, layer->k, &bits);
    }
    j->network->kernels->transpose_s8(s->operands, order, rows, layer->operand_ld, layer->operand_ld,
                                      work->x_columns + first, work->terms_ld);
    atomic_fetch_add_explicit(&layer->pairs, pairs, memory_order_relaxed);
}

static void prepare_window_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    if (index < j->layer->groups)
        prepare_errors(j, index);
    else
        unfold_columns(j, (index - j->layer->groups) * SPPIM_BLOCK_ROWS, &j->network->scratch[worker->id]);
}

static bool prepare_positions(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const int flip = sppim_input_flip(layer, j->flight);
    for (size_t k = 0; k < layer->depth; k++)
        j->network->work.d_scale[k] = (k < layer->k ? -layer->now.m[k] : 0) - flip;
    return sppim_pool_run(j->network->pool, prepare_window_task, j,
                          layer->groups + sppim_ceil_div(j->terms, SPPIM_BLOCK_ROWS));
}

/* A12.8 */
static void update_channel_means(const sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const size_t pixels = layer->inputs / layer->channels;
    for (size_t c = 0; c < layer->channels; c++) {
        int64_t sum = 0;
        for (size_t p = 0; p < pixels; p++)
            sum += j->flight->x_sum[j->l][p * layer->channels + c];
        layer->next.mean[c] = sppim_next_mean(layer->now.mean[c], batch_mean(sum, (int64_t)(j->flight->n * pixels)));
    }
    for (size_t k = 0; k < layer->k; k++)
        layer->next.m[k] = sppim_mean_byte(layer->next.mean[k % layer->channels]);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* Sums stay in the first-level cache until the update takes them: those of many rows and a panel, or a few rows and
 * several. */
#define PANEL_ROWS  (SPPIM_GRADIENT_CELLS / SPPIM_PANEL)
#define TASK_PANELS ((size_t)8)
#define WIDE_ROWS   (PANEL_ROWS / TASK_PANELS)

/* Rows of the weights and panels of columns. */
typedef struct tile {
    size_t row, rows;     /* rows a multiple of SPPIM_DEPTH */
    size_t panel, panels;
    size_t ld;            /* distance of two rows of sums */
    unsigned erring;      /* bit p: panel `panel + p` has errors, or is not to be left alone */
    sppim_scratch *scratch;
} tile;

/* The non-zeros of an input over the images. */
static sppim_nonzeros list_column(const sppim_job *j, size_t k, int flip, const sppim_scratch *s)
{
    const sppim_workspace *work = &j->network->work;
    return sppim_list_s8(j->network->kernels, work->x_columns + k * work->terms_ld, j->terms, flip, s->index, s->value);
}

static void dense_gradient(const sppim_job *j, const tile *t)
{
    const sppim_workspace *work = &j->network->work;
    const size_t terms = padded_terms(j), column = t->panel * SPPIM_PANEL;
    j->network->kernels->product_s8(work->x_columns + t->row * work->terms_ld, work->terms_ld, t->rows, terms / 4,
                                    sppim_input_flip(j->layer, j->flight), work->d_quads + column * terms,
                                    (sppim_start){work->d_lanes + column, work->d_scale + t->row}, t->scratch->gradient,
                                    t->ld, SPPIM_LANES);
}

static void sparse_gradient(const sppim_job *j, const tile *t)
{
    const sppim_workspace *work = &j->network->work;
    const sppim_scratch *s = t->scratch;
    const size_t terms = padded_terms(j), column = t->panel * SPPIM_PANEL;
    const int flip = sppim_input_flip(j->layer, j->flight);
    for (size_t r = 0; r < t->rows; r++) {
        const size_t k = t->row + r;
        const int32_t scale = k < j->layer->k ? -j->layer->now.m[k] : 0;
        j->network->kernels->product_sparse_s8(
            list_column(j, k, flip, s), work->d_rows + column * terms, terms * SPPIM_GROUP, sppim_groups_of(t->panels),
            (sppim_start){work->d_lanes + column, &scale}, s->gradient + r * t->ld, SPPIM_LANES);
    }
}

/* The term -m D of A7.1 with a finite accumulator. */
static uint64_t centre_row(const sppim_job *j, size_t k, const int32_t *sums, int32_t *gradient)
{
    uint64_t changed = 0;
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
        const int64_t exact = gradient[lane] - (int64_t)(k < j->layer->k ? j->layer->now.m[k] : 0) * sums[lane];
        gradient[lane] = (int32_t)sppim_fit1(exact, j->layer->config.gc_accumulator);
        changed += gradient[lane] != exact;
    }
    return changed;
}

static int32_t *sums_so_far(const sppim_job *j, const tile *t, size_t r, size_t p)
{
    return j->network->work.gradient + ((t->panel + p) * j->layer->depth + t->row + r) * SPPIM_PANEL;
}

/* Whether these terms are the last ones of the batch. */
static bool last_part(const sppim_job *j) { return j->part + j->images == j->flight->n; }

/* A7.1 with an accumulator that may overflow: the terms in their order, then the mean. */
static void finite_gradient(const sppim_job *j, const tile *t)
{
    const sppim_workspace *work = &j->network->work;
    const sppim_scratch *s = t->scratch;
    uint64_t changed = 0;
    for (size_t r = 0; r < t->rows; r++) {
        const size_t k = t->row + r, count = list_column(j, k, SPPIM_UNSIGNED, s).count;
        for (size_t i = 0; i < count; i++)
            s->value16[i] = (int8_t)s->value[i];
        for (size_t p = 0; p < t->panels; p++) {
            int32_t *gradient = s->gradient + r * t->ld + p * SPPIM_PANEL;
            if (j->part)
                memcpy(gradient, sums_so_far(j, t, r, p), SPPIM_PANEL * sizeof *gradient);
            else
                memset(gradient, 0, SPPIM_PANEL * sizeof *gradient);
            changed += j->network->kernels->product_finite_s16(
                (sppim_nonzeros){.index = s->index, .value16 = s->value16, .count = count},
                work->d_pairs + (t->panel + p) * padded_terms(j) * SPPIM_PANEL, j->layer->config.gc_accumulator,
                gradient);
            if (last_part(j))
                changed += centre_row(j, k, work->d_lanes + (t->panel + p) * SPPIM_PANEL, gradient);
            else
                memcpy(sums_so_far(j, t, r, p), gradient, SPPIM_PANEL * sizeof *gradient);
        }
    }
    sppim_add_saturations(j->layer, SPPIM_SAT_ACC, changed);
}

/* The sums of the parts before and those of this one, in the place where the next part, or the update, wants them. */
static void join_parts(const sppim_job *j, const tile *t, size_t p, int32_t *restrict gradient)
{
    for (size_t r = 0; r < t->rows; r++) {
        int32_t *restrict sum = sums_so_far(j, t, r, p), *restrict row = gradient + r * t->ld;
        if (last_part(j))
            for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
                row[lane] += sum[lane];
        else
            for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
                sum[lane] = row[lane] + (j->part ? sum[lane] : 0);
    }
}

/* ---- update ------------------------------------------------------------------------------------------------------ */

static sppim_update update_of(const sppim_job *j)
{
    const sppim_layer_config *c = &j->layer->config;
    const sppim_key key = sppim_key_make(j->network->config.seed, SPPIM_STREAM_ROUNDING, j->l, j->flight->batch);
    sppim_update u = {.shift = c->update_shift + j->flight->rate_shift, .round = c->update_round, .k0 = key.k0,
                      .k1 = key.k1, .product_bits = c->product_bits, .columns = j->layer->n};
    const uint64_t terms = j->layer->windowed ? j->flight->n * j->layer->positions : j->terms;
    u.narrow = ((terms * 255 * SPPIM_ERROR_MAX) >> u.shift) < INT16_MAX;
    return u;
}

/* A7.5: turns the sums of some rows into what weights of fewer bits change by; returns the number of clipped weights. */
static size_t coarse_changes(const sppim_layer *layer, const sppim_update *u, const tile *t, size_t panel, int32_t *gradient)
{
    const int bits = layer->config.weight_bits, shift = u->shift + 16 - bits;
    const int64_t step = (int64_t)1 << (16 - bits), limit = sppim_weight_limit(bits);
    const size_t columns = sppim_smaller(SPPIM_PANEL, layer->n - panel * SPPIM_PANEL);
    size_t clipped = 0;
    for (size_t k = t->row; k < sppim_smaller(t->row + t->rows, layer->k + 1); k++)
        for (size_t c = 0; c < columns; c++) {
            int32_t *g = gradient + (k - t->row) * t->ld + sppim_column_lane(c);
            const size_t n = panel * SPPIM_PANEL + c;
            const uint16_t random = sppim_draw16_1((sppim_key){u->k0, u->k1}, (uint32_t)(k * layer->n + n));
            const int64_t q = u->round == SPPIM_SR ? sppim_sr(*g, shift < 46 ? shift : 46, random)
                                                   : sppim_shr(*g, shift, u->round);
            const int64_t w = layer->now.w[sppim_pair_place(layer, k, n)], exact = w - q * step;
            clipped += exact != sppim_sat(exact, -limit, limit);
            *g = (int32_t)(w - sppim_sat(exact, -limit, limit));
        }
    return clipped;
}

/* What becomes of the sums of a tile's panel p. */
static void update_panel(const sppim_job *j, const sppim_update *u, const tile *t, size_t p, int32_t *gradient)
{
    sppim_layer *layer = j->layer;
    const size_t panel = t->panel + p;
    if (j->partial && !layer->gc_finite)
        join_parts(j, t, p, gradient);
    if (!last_part(j))
        return;
    const uint32_t index = (uint32_t)(t->row * layer->n + panel * SPPIM_PANEL);
    sppim_update change = *u;
    size_t clipped = 0;
    if (layer->config.weight_bits < 16) {
        clipped = coarse_changes(layer, u, t, panel, gradient);
        change.shift = 0; /* the sums are the changes now */
        change.round = SPPIM_SR;
        change.narrow = false;
    }
    clipped += j->network->kernels->update_s16(
        &change, gradient, t->ld, t->rows, index, sppim_panel_rows(layer, &layer->now, &layer->next, t->row, panel));
    sppim_add_saturations(layer, SPPIM_SAT_WEIGHT, clipped);
}

/* Rows whose gradient is zero keep their weights: inputs without a negative one that sum to zero are all zero. */
static bool nothing_to_do(const sppim_job *j, size_t row, size_t rows)
{
    if (!j->layer->in_place || j->layer->windowed || (j->terms && sppim_input_flip(j->layer, j->flight)))
        return false;
    for (size_t k = row; k < row + rows && j->terms; k++)
        if (k == j->layer->k || (k < j->layer->k && (j->flight->x_sum[j->l][k] || j->layer->now.m[k])))
            return false;
    return true;
}

/* Rows from here on that have something to do, at most so many; moves t->row past those that have not. */
static size_t rows_to_do(const sppim_job *j, tile *t, size_t last, size_t most)
{
    while (t->row < last && nothing_to_do(j, t->row, SPPIM_DEPTH))
        t->row += SPPIM_DEPTH;
    size_t rows = 0;
    while (rows < most && t->row + rows < last && !nothing_to_do(j, t->row + rows, SPPIM_DEPTH))
        rows += SPPIM_DEPTH;
    return rows;
}

/* Panels without an error have no gradient. */
static unsigned erring_panels(const sppim_job *j, size_t panel, size_t panels)
{
    unsigned erring = 0;
    for (size_t p = 0; p < panels; p++) {
        uint32_t nonzeros = !j->layer->in_place || j->partial;
        for (size_t c = 0; c < SPPIM_PANEL; c++)
            nonzeros |= j->layer->error_column_nonzeros[(panel + p) * SPPIM_PANEL + c];
        erring |= (unsigned)(nonzeros != 0) << p;
    }
    return erring;
}

/* All panels of a few rows at once: the non-zeros of a row are found once. */
static void update_by_rows(const sppim_job *j, const sppim_update *u, tile t, size_t last)
{
    t.ld = TASK_PANELS * SPPIM_PANEL;
    while ((t.rows = rows_to_do(j, &t, last, WIDE_ROWS))) {
        (j->layer->gc_finite ? finite_gradient : sparse_gradient)(j, &t);
        for (size_t p = 0; p < t.panels; p++)
            if (t.erring >> p & 1)
                update_panel(j, u, &t, p, t.scratch->gradient + p * SPPIM_PANEL);
        t.row += t.rows;
    }
}

/* Panel by panel: its errors stay in the first-level cache. */
static void update_by_panels(const sppim_job *j, const sppim_update *u, tile t, size_t last)
{
    t.ld = SPPIM_PANEL;
    while ((t.rows = rows_to_do(j, &t, last, PANEL_ROWS))) {
        tile one = t;
        for (; one.erring; one.panel++, one.erring >>= 1)
            if (one.erring & 1) {
                dense_gradient(j, &one);
                update_panel(j, u, &one, 0, t.scratch->gradient);
            }
        t.row += t.rows;
    }
}

static void gradient_task(void *context, size_t index, sppim_worker *worker)
{
    const sppim_job *j = context;
    const sppim_layer *layer = j->layer;
    const sppim_update u = update_of(j);
    const size_t tasks = sppim_ceil_div(layer->panels, TASK_PANELS), panel = index % tasks * TASK_PANELS;
    const size_t row = index / tasks * j->rows, last = sppim_smaller(layer->depth, row + j->rows);
    tile t = {.panel = panel, .panels = sppim_smaller(TASK_PANELS, layer->panels - panel),
              .scratch = &j->network->scratch[worker->id]};
    t.erring = erring_panels(j, panel, t.panels);
    for (t.row = row; t.erring && t.row < last && !sppim_worker_stop(worker); t.row += PANEL_ROWS)
        (j->skip || layer->gc_finite ? update_by_rows : update_by_panels)(j, &u, t,
                                                                          sppim_smaller(last, t.row + PANEL_ROWS));
}

/* ---- a single image: the update forms its gradient, the outer product of x - m and d ----------------------------- */

/* Pairs of rows that the image changes; by twos where the layout asks for that, all where the next weights are
 * others. */
static void find_pairs(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const int16_t *row = j->network->work.x_row;
    uint16_t *pair = j->network->work.pair;
    const size_t rows = layer->next.has_quads ? 4 : 2;
    j->pairs = 0;
    for (size_t k = 0; k < layer->depth; k += rows) {
        pair[j->pairs] = (uint16_t)(k / 2);
        pair[j->pairs + rows / 2 - 1] = (uint16_t)(k / 2 + rows / 2 - 1);
        const int any = row[k] | row[k + 1] | row[k + rows - 2] | row[k + rows - 1];
        j->pairs += any || !layer->in_place ? rows / 2 : 0;
    }
}

/* |x - m| at most. */
static int largest_row(const sppim_job *j)
{
    const int16_t *row = j->network->work.x_row;
    int16_t low = 0, high = 0;
    j->network->kernels->census_s16(row, j->layer->k + 1, &low, &high);
    return high > -low ? high : -low;
}

static void image_task(void *context, size_t panel, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    const sppim_workspace *work = &j->network->work;
    sppim_layer *layer = j->layer;
    const size_t column = panel * SPPIM_PANEL;
    sppim_update u = update_of(j);
    u.narrow = j->narrow;
    if (erring_panels(j, panel, 1))
        sppim_add_saturations(layer, SPPIM_SAT_WEIGHT,
                              j->network->kernels->update_outer_s16(
                                  &u, work->x_row, work->d_row + column, work->pair, j->pairs, (uint32_t)column,
                                  sppim_panel_rows(layer, &layer->now, &layer->next, 0, panel)));
}

static bool update_by_image(sppim_job *j)
{
    find_pairs(j);
    const int shift = update_of(j).shift;
    j->narrow = shift < 15 && largest_row(j) * SPPIM_ERROR_MAX + (1 << shift) <= INT16_MAX;
    return sppim_pool_run(j->network->pool, image_task, j, j->layer->panels);
}

/* A6.7 for one class. */
static void update_score_bias(const sppim_job *j, size_t c)
{
    sppim_layer *layer = j->layer;
    int64_t sum = 0;
    for (size_t b = 0; b < j->flight->n; b++)
        sum += layer->e[b * layer->class_ld + c];
    sum *= (int64_t)1 << (layer->config.margin_log2 - 7);
    const int64_t exact = layer->now.score_bias[c] - sppim_shr(sum, 8, SPPIM_RNU);
    layer->next.score_bias[c] = (int32_t)sppim_sat(exact, -SPPIM_SCORE_BIAS_MAX, SPPIM_SCORE_BIAS_MAX);
    sppim_add_saturations(layer, SPPIM_SAT_WEIGHT, layer->next.score_bias[c] != exact);
}

static void score_bias_task(void *context, size_t index, sppim_worker *worker)
{
    (void)worker;
    const sppim_job *j = context;
    for (size_t c = index * 64; c < sppim_smaller(j->layer->classes, (index + 1) * 64); c++)
        update_score_bias(j, c);
}

/* The update keeps the layout that the last forward read, which is up to date; in place, that includes rows it
 * leaves alone. */
static void choose_layout(sppim_layer *layer)
{
    layer->next.has_rows = layer->bytes && layer->skipping;
    layer->next.has_quads = layer->bytes && !layer->skipping;
    layer->next.has_words = layer->next.words && layer->skipping;
}

static bool choose_skipping(const sppim_job *j)
{
    const uint32_t *values = j->flight->value_nonzeros + j->l * j->flight->n + j->part;
    uint64_t nonzeros = 0;
    if (j->network->config.path != SPPIM_PATH_AUTO)
        return j->network->config.path == SPPIM_PATH_SPARSE;
    for (size_t i = 0; !j->layer->windowed && i < j->terms; i++)
        nonzeros += values[j->network->work.active[i]];
    for (size_t i = 0; j->layer->windowed && i < j->images; i++) /* as if a window saw the average */
        nonzeros += values[i] * (uint64_t)j->layer->k / j->layer->inputs * j->terms / j->images;
    return sppim_gradient_skips(j->layer->panels, j->terms, j->layer->k, nonzeros);
}

/* ---- counters, and the phase ------------------------------------------------------------------------------------- */

static uint64_t pot_done(const sppim_job *j, size_t b)
{
    const sppim_layer *layer = j->layer;
    if (layer->place.output || layer->place.rule == SPPIM_RULE_BP)
        return 0;
    const uint64_t y = layer->windowed ? layer->feature_nonzeros[b]
                                       : j->flight->value_nonzeros[(j->l + 1) * j->flight->n + b];
    uint8_t bits = 0;
    const uint64_t e = j->network->kernels->census_s8(layer->e + b * layer->class_ld, layer->classes, &bits);
    return y * (e + (layer->place.rule == SPPIM_RULE_LOCAL ? layer->classes : 0));
}

static void count_backward(const sppim_job *j)
{
    sppim_layer *layer = j->layer;
    const size_t n = j->flight->n, at = j->l * n;
    uint8_t bits = 0;
    sppim_backward_facts facts = {.images = n, .pair_nonzeros = layer->pairs};
    facts.fold_nonzeros = 1 + j->network->kernels->census_s8(layer->now.m, layer->k, &bits);
    for (size_t c = 0; c < layer->n; c++)
        facts.error_sum_nonzeros += layer->error_sum[c] != 0;
    for (size_t b = 0; b < n; b++) {
        const uint64_t d = j->flight->error_nonzeros[at + b];
        facts.error_nonzeros += d;
        facts.pair_nonzeros += layer->windowed ? 0 : d * j->flight->input_nonzeros[at + b];
        facts.pot_done += pot_done(j, b);
    }
    for (size_t c = 0; layer->now.column_zeros && !layer->place.first && c < layer->n; c++)
        facts.column_gated += (uint64_t)layer->error_column_nonzeros[c] * layer->now.column_zeros[c];
    sppim_count_backward(&layer->shape, layer->place, &facts, &layer->counted);
}

static bool update_by_gradient(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    j->rows = sppim_round_up(sppim_smaller(2 * PANEL_ROWS, sppim_ceil_div(layer->depth, 2)), WIDE_ROWS);
    return sppim_pool_run(j->network->pool, gradient_task, j,
                          sppim_ceil_div(layer->depth, j->rows) * sppim_ceil_div(layer->panels, TASK_PANELS));
}

static bool update_from_images(sppim_job *j)
{
    j->images = j->flight->n;
    j->d = j->layer->delta;
    find_active_images(j);
    j->skip = choose_skipping(j);
    return prepare_images(j) && (single_image(j) ? update_by_image(j) : update_by_gradient(j));
}

/* Some images at a time; the last ones bring the update. */
static bool update_from_positions(sppim_job *j)
{
    const sppim_layer *layer = j->layer;
    const size_t n = j->flight->n, step = sppim_gradient_images(j->network, layer);
    j->partial = step < n;
    for (j->part = 0; j->part < n; j->part += step) {
        j->images = sppim_smaller(step, n - j->part);
        j->d = sppim_errors_as_they_are(layer) ? layer->delta + j->part * layer->ld : j->network->work.d;
        j->terms = 0;
        if (!sppim_pool_run(j->network->pool, spread_task, j, j->images))
            return false;
        find_active_positions(j);
        j->skip = choose_skipping(j);
        if (!prepare_positions(j) || !update_by_gradient(j))
            return false;
    }
    if (layer->config.centred)
        update_channel_means(j);
    return true;
}

bool sppim_layer_update(sppim_network *network, size_t l, sppim_flight *flight)
{
    sppim_layer *layer = &network->layers[l];
    sppim_job j = {.network = network, .layer = layer, .l = l, .flight = flight};
    choose_layout(layer);
    layer->pairs = 0;
    memset(layer->error_sum, 0, layer->ld * sizeof *layer->error_sum);
    memset(layer->error_column_nonzeros, 0, layer->ld * sizeof *layer->error_column_nonzeros);
    if (!(layer->windowed ? update_from_positions : update_from_images)(&j))
        return false;
    if (!layer->place.output && layer->place.rule == SPPIM_RULE_LOCAL &&
        !sppim_pool_run(network->pool, score_bias_task, &j, sppim_ceil_div(layer->classes, 64)))
        return false;
    if (!sppim_layer_derive(network, l, &layer->next))
        return false;
    count_backward(&j);
    layer->updated = true;
    return true;
}
