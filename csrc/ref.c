/* Reference kernels: plain loops over fixed.h. What they compute is what every other level must compute. */
#include <assert.h>
#include <string.h>

#include "fixed.h"
#include "kernels.h"

static size_t compress_s8_ref(const int8_t *x, size_t count, size_t base, uint16_t *index, int8_t *value)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        index[found] = (uint16_t)(base + i);
        value[found] = x[i];
        found += x[i] != 0;
    }
    return found;
}

static void add_and_clear(int32_t *sum, size_t columns, int64_t *acc)
{
    for (size_t j = 0; j < columns; j++)
        acc[j] += sum[j];
    memset(sum, 0, columns * sizeof *sum);
}

static void add_row(int32_t x, const int16_t *v, size_t columns, int32_t *sum)
{
    for (size_t j = 0; j < columns; j++)
        sum[j] += x * v[j];
}

static void product_s8_s16_ref(const int8_t *x, size_t count, const int16_t *v, size_t stride, size_t columns,
                               size_t exact, int64_t *acc)
{
    assert(columns <= SPPIM_TILE_COLUMNS && exact > 0);
    int32_t sum[SPPIM_TILE_COLUMNS] = {0};
    size_t terms = 0;
    for (size_t i = 0; i < count; i++) {
        add_row(x[i], v + i * stride, columns, sum);
        if (++terms == exact) {
            add_and_clear(sum, columns, acc);
            terms = 0;
        }
    }
    add_and_clear(sum, columns, acc);
}

static void product_sparse_s8_s16_ref(sppim_nonzeros x, const int16_t *v, size_t stride, size_t columns, size_t exact,
                                      int64_t *acc)
{
    assert(columns <= SPPIM_TILE_COLUMNS && exact > 0);
    int32_t sum[SPPIM_TILE_COLUMNS] = {0};
    size_t terms = 0;
    for (size_t i = 0; i < x.count; i++) {
        add_row(x.value[i], v + x.index[i] * stride, columns, sum);
        if (++terms == exact) {
            add_and_clear(sum, columns, acc);
            terms = 0;
        }
    }
    add_and_clear(sum, columns, acc);
}

static uint64_t product_finite_s8_s16_ref(sppim_nonzeros x, const int16_t *v, size_t stride, size_t columns,
                                          sppim_accumulator accumulator, int64_t *acc)
{
    uint64_t changed = 0;
    for (size_t i = 0; i < x.count; i++) {
        const int16_t *row = v + x.index[i] * stride;
        for (size_t j = 0; j < columns; j++) {
            const int64_t exact = acc[j] + x.value[i] * row[j];
            acc[j] = sppim_fit1(exact, accumulator);
            changed += acc[j] != exact;
        }
    }
    return changed;
}

static size_t requantize_relu_s64_s8_ref(const int64_t *acc, size_t count, int shift, int round, int hi, int8_t *y)
{
    size_t saturated = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t rounded = sppim_shr(acc[i], shift, round);
        saturated += rounded > hi;
        y[i] = (int8_t)sppim_sat(rounded, 0, hi);
    }
    return saturated;
}

static int64_t project_s8_pot_ref(sppim_nonzeros x, const uint8_t *code)
{
    int64_t score = 0;
    for (size_t i = 0; i < x.count; i++)
        score = sppim_pot_mac1(score, x.value[i], code[x.index[i]]);
    return score;
}

static void back_project_s8_pot_ref(int8_t e, const uint8_t *code, size_t columns, int32_t *sum)
{
    for (size_t j = 0; j < columns; j++)
        sum[j] = (int32_t)sppim_pot_mac1(sum[j], e, code[j]);
}

static void gradient_s8_s8_ref(sppim_nonzeros x, size_t row0, sppim_nonzeros d, size_t column0, int32_t *gradient)
{
    for (size_t i = 0; i < x.count; i++) {
        int32_t *row = gradient + (x.index[i] - row0) * SPPIM_TILE_COLUMNS;
        for (size_t j = 0; j < d.count; j++)
            row[d.index[j] - column0] += x.value[i] * d.value[j];
    }
}

static uint64_t gradient_finite_s8_s8_ref(sppim_nonzeros x, size_t row0, sppim_nonzeros d, size_t column0,
                                          sppim_accumulator accumulator, int32_t *gradient)
{
    uint64_t changed = 0;
    for (size_t i = 0; i < x.count; i++) {
        int32_t *row = gradient + (x.index[i] - row0) * SPPIM_TILE_COLUMNS;
        for (size_t j = 0; j < d.count; j++) {
            int32_t *g = &row[d.index[j] - column0];
            const int64_t exact = (int64_t)*g + x.value[i] * d.value[j];
            *g = (int32_t)sppim_fit1(exact, accumulator);
            changed += *g != exact;
        }
    }
    return changed;
}

static size_t update_s16_ref(const int16_t *w, const int32_t *gradient, size_t columns, uint32_t first,
                             const sppim_update *update, int16_t *w_next, int16_t *v_next)
{
    const sppim_key key = {update->k0, update->k1};
    size_t clipped = 0;
    for (size_t j = 0; j < columns; j++) {
        const int64_t q = update->round == SPPIM_SR
                              ? sppim_sr(gradient[j], update->shift, sppim_draw16_1(key, first + (uint32_t)j))
                              : sppim_shr(gradient[j], update->shift, update->round);
        const int64_t exact = w[j] - q;
        w_next[j] = (int16_t)sppim_sat(exact, -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX);
        v_next[j] = (int16_t)sppim_product_weight(w_next[j], update->product_bits);
        clipped += w_next[j] != exact;
    }
    return clipped;
}

void sppim_kernels_install_ref(sppim_kernels *table)
{
    table->compress_s8 = compress_s8_ref;
    table->product_s8_s16 = product_s8_s16_ref;
    table->product_sparse_s8_s16 = product_sparse_s8_s16_ref;
    table->product_finite_s8_s16 = product_finite_s8_s16_ref;
    table->requantize_relu_s64_s8 = requantize_relu_s64_s8_ref;
    table->project_s8_pot = project_s8_pot_ref;
    table->back_project_s8_pot = back_project_s8_pot_ref;
    table->gradient_s8_s8 = gradient_s8_s8_ref;
    table->gradient_finite_s8_s8 = gradient_finite_s8_s8_ref;
    table->update_s16 = update_s16_ref;
}
