#include "count.h"

#include "fixed.h"

#define GRADIENT_BYTES 4u

static bool has_fold(const sppim_shape *s) { return s->bias || s->centred; }

static uint64_t weight_words(const sppim_shape *s) { return (uint64_t)(s->rows + s->bias) * (uint64_t)s->columns; }

void sppim_count_forward(const sppim_shape *s, const sppim_forward_facts *f, sppim_counters *c)
{
    const uint64_t columns = (uint64_t)s->columns;
    const uint64_t operands = f->images * (uint64_t)s->rows * (uint64_t)s->positions;
    const uint64_t fold = has_fold(s) ? (uint64_t)(s->rows + s->bias) : 0;
    const uint64_t total = (operands + fold) * columns;
    const uint64_t skipped = total - (f->operand_nonzeros + f->fold_nonzeros) * columns;
    c->input_values += operands;
    c->input_zeros += operands - f->operand_nonzeros;
    c->fp_macs_total += total;
    c->fp_macs_skipped += skipped;
    c->fp_macs_gated += f->weight_gated;
    c->fp_macs_done += total - skipped - f->weight_gated;

    const uint64_t in = f->images * (uint64_t)s->inputs * (uint64_t)s->activation_bytes;
    const uint64_t out = f->images * (uint64_t)s->outputs * (uint64_t)s->activation_bytes;
    c->sram_activation_read_bytes += in;
    c->sram_activation_write_bytes += out;
    c->ema_activation_read_bytes += in;
    c->ema_activation_write_bytes += out;
    c->ema_weight_read_bytes += weight_words(s) * (uint64_t)s->weight_bytes;
}

uint64_t sppim_count_pot_image(const sppim_shape *s, sppim_place place)
{
    if (place.output || place.rule == SPPIM_RULE_BP)
        return 0;
    return (place.rule == SPPIM_RULE_LOCAL ? 2u : 1u) * (uint64_t)s->classes * (uint64_t)s->features;
}

static void count_macs(const sppim_shape *s, sppim_place place, const sppim_backward_facts *f, sppim_counters *c)
{
    const uint64_t rows = (uint64_t)s->rows, columns = (uint64_t)s->columns;
    const uint64_t fold = has_fold(s) ? rows + (uint64_t)s->bias : 0;
    const uint64_t values = f->images * columns * (uint64_t)s->positions;
    const uint64_t zeros = values - f->error_nonzeros;
    c->error_values += values;
    c->error_zeros += zeros;

    const uint64_t done = f->pair_nonzeros + f->error_sum_nonzeros * f->fold_nonzeros;
    const uint64_t skipped = rows * zeros + fold * (columns - f->error_sum_nonzeros);
    c->gc_macs_total += values * rows + fold * columns;
    c->gc_macs_skipped += skipped;
    c->gc_macs_done += done;
    c->gc_macs_gated += values * rows + fold * columns - skipped - done;

    if (place.rule == SPPIM_RULE_BP && !place.first) {
        c->ep_macs_total += values * rows;
        c->ep_macs_skipped += rows * zeros;
        c->ep_macs_gated += f->column_gated;
        c->ep_macs_done += rows * f->error_nonzeros - f->column_gated;
    }
    const uint64_t pot = f->images * sppim_count_pot_image(s, place);
    c->pot_macs_total += pot;
    c->pot_macs_done += f->pot_done;
    c->pot_macs_gated += pot - f->pot_done;
}

static void count_traffic(const sppim_shape *s, sppim_place place, uint64_t images, sppim_counters *c)
{
    const bool bp = place.rule == SPPIM_RULE_BP, inner = bp && !place.first;
    const bool late = bp || place.rule == SPPIM_RULE_DFA;
    const bool projected = place.rule == SPPIM_RULE_LOCAL && !place.output;
    const uint64_t in = images * (uint64_t)s->inputs * (uint64_t)s->activation_bytes;
    const uint64_t out = images * (uint64_t)s->outputs * (uint64_t)s->activation_bytes;
    const uint64_t weights = weight_words(s) * (uint64_t)s->weight_bytes;

    c->sram_activation_read_bytes += in + (projected ? out : 0);
    c->sram_error_read_bytes += out + (inner ? out : 0);
    c->sram_error_write_bytes += out;
    c->sram_weight_read_bytes += weights;
    c->sram_weight_write_bytes += weights;
    c->sram_gradient_read_bytes += weight_words(s) * GRADIENT_BYTES;

    c->ema_activation_read_bytes += late ? in : 0;
    c->ema_error_read_bytes += (bp ? out : 0) + (inner ? out : 0);
    c->ema_error_write_bytes += inner ? in : 0;
    c->ema_weight_read_bytes += weights + (inner ? weights : 0);
    c->ema_weight_write_bytes += weights;
    if (!bp && !place.output)
        c->ema_random_read_bytes += ((uint64_t)s->classes * (uint64_t)s->features + 1) / 2;
}

void sppim_count_backward(const sppim_shape *s, sppim_place place, const sppim_backward_facts *f, sppim_counters *c)
{
    c->images += f->images;
    c->batches += 1;
    count_macs(s, place, f, c);
    count_traffic(s, place, f->images, c);
}

sppim_status sppim_shape_check(const sppim_shape *s)
{
    const int64_t most = 1 << 20;
    if (s->struct_size != sizeof *s)
        return SPPIM_ERROR_SHAPE;
    if (!sppim_within(s->rows, 1, most) || !sppim_within(s->columns, 1, most) || !sppim_within(s->positions, 1, most) ||
        !sppim_within(s->inputs, 1, most) || !sppim_within(s->outputs, 1, most) || !sppim_within(s->classes, 2, 1024) ||
        !sppim_within(s->features, 1, s->outputs) || !sppim_within(s->pooled, 0, 1) || !sppim_within(s->bias, 0, 1) || !sppim_within(s->centred, 0, 1) || !sppim_within(s->activation_bytes, 1, 8) ||
        !sppim_within(s->weight_bytes, 1, 8) || !sppim_within(s->macros, 1, 65535))
        return SPPIM_ERROR_RANGE;
    const int64_t errors = s->columns * s->positions;
    if ((s->pooled ? errors < s->outputs : errors != s->outputs) || s->rows * s->positions > UINT32_MAX ||
        errors > UINT32_MAX)
        return SPPIM_ERROR_SHAPE;
    return SPPIM_OK;
}

static sppim_status check_layer(const sppim_shape *s, size_t n, const uint32_t *operands, const uint32_t *errors)
{
    const sppim_status status = sppim_shape_check(s);
    for (size_t i = 0; status == SPPIM_OK && i < n; i++)
        if (operands[i] > s->rows * s->positions || errors[i] > s->columns * s->positions)
            return SPPIM_ERROR_RANGE;
    return status;
}

/* What is known of a layer when only its zeros were counted: zero weights are not, and which zero activation
 * meets which error only in a dense layer. */
static void count_layer(const sppim_shape *s, sppim_place place, size_t n, const uint32_t *operands,
                        const uint32_t *errors, sppim_counters *c)
{
    sppim_forward_facts forward = {.images = n};
    sppim_backward_facts backward = {.images = n};
    for (size_t i = 0; i < n; i++) {
        forward.operand_nonzeros += operands[i];
        backward.error_nonzeros += errors[i];
        backward.pair_nonzeros += (uint64_t)errors[i] * (s->positions == 1 ? operands[i] : (uint64_t)s->rows);
    }
    if (has_fold(s)) {
        forward.fold_nonzeros = backward.fold_nonzeros = (uint64_t)(s->centred ? s->rows : 0) + (uint64_t)s->bias;
        backward.error_sum_nonzeros = (uint64_t)s->columns;
    }
    backward.pot_done = n * sppim_count_pot_image(s, place);
    sppim_count_forward(s, &forward, c);
    sppim_count_backward(s, place, &backward, c);
}

sppim_status sppim_count_batch(const sppim_shape *shapes, size_t layers, int32_t rule, size_t n,
                               const uint32_t *operand_nonzeros, const uint32_t *error_nonzeros,
                               sppim_counters *counters)
{
    if (!shapes || !counters || (n && (!operand_nonzeros || !error_nonzeros)))
        return SPPIM_ERROR_NULL;
    if (rule < 0 || rule >= SPPIM_RULE_COUNT || n > 65535 || layers < 1)
        return SPPIM_ERROR_RANGE;
    for (size_t l = 0; l < layers; l++) {
        const sppim_status status = check_layer(&shapes[l], n, operand_nonzeros + l * n, error_nonzeros + l * n);
        if (status != SPPIM_OK)
            return status;
    }
    for (size_t l = 0; l < layers; l++)
        count_layer(&shapes[l], (sppim_place){rule, l == 0, l == layers - 1}, n, operand_nonzeros + l * n,
                    error_nonzeros + l * n, &counters[l]);
    return SPPIM_OK;
}
