/* Reference kernels: plain loops over fixed.h. What they compute is what every other level must compute. */
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

static size_t compress_s16_ref(const int16_t *x, size_t count, size_t base, uint16_t *index, int16_t *value)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        index[found] = (uint16_t)(base + i);
        value[found] = x[i];
        found += x[i] != 0;
    }
    return found;
}

static void columns_s32_ref(const int32_t *lanes, size_t panels, int32_t *out)
{
    for (size_t p = 0; p < panels * SPPIM_PANEL; p += SPPIM_PANEL) {
        int32_t copy[SPPIM_PANEL];
        memcpy(copy, lanes + p, sizeof copy);
        for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
            out[p + sppim_lane_column(lane)] = copy[lane];
    }
}

static size_t census_s8_ref(const int8_t *x, size_t count, int32_t *sum)
{
    size_t found = 0;
    *sum = 0;
    for (size_t i = 0; i < count; i++) {
        found += x[i] != 0;
        *sum += x[i];
    }
    return found;
}

static void tally_s8_ref(const int8_t *x, size_t rows, size_t ld, size_t columns, int32_t *sum, uint32_t *nonzeros)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            sum[c] += x[r * ld + c];
            nonzeros[c] += x[r * ld + c] != 0;
        }
}

static void transpose_s8_ref(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, size_t columns, int8_t *out,
                             size_t ld_out)
{
    for (size_t c = 0; c < columns; c++)
        for (size_t i = 0; i < sppim_round_up(rows, 16); i++)
            out[c * ld_out + i] = i < rows ? x[row[i] * ld + c] : 0;
}

static void pack_s8_ref(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, uint8_t *quads, size_t quad_stride,
                        uint8_t *out_rows)
{
    for (size_t i = 0; i < sppim_round_up(rows, SPPIM_DEPTH); i++)
        for (size_t c = 0; c < SPPIM_GROUP; c++) {
            const int value = i < rows ? x[row[i] * ld + c] : 0;
            const size_t place = sppim_in_quads(i, sppim_column_lane(c % SPPIM_PANEL));
            quads[c / SPPIM_PANEL * quad_stride + place] = (uint8_t)(value + SPPIM_OFFSET);
            out_rows[sppim_in_rows(i, c)] = (uint8_t)(value + SPPIM_OFFSET);
        }
}

/* Sums are formed modulo 2^32 like those of the vector levels. */
static void store_sums(const uint32_t *sum, int32_t *out, int order)
{
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
        out[order == SPPIM_LANES ? lane : sppim_lane_column(lane)] = (int32_t)sum[lane];
}

static void product_s8_ref(const int8_t *x, size_t ld, size_t rows, size_t steps, const uint8_t *quads, sppim_start start,
                           int32_t *out, size_t ld_out, int order)
{
    for (size_t r = 0; r < rows; r++) {
        uint32_t sum[SPPIM_PANEL];
        for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
            const uint32_t column = start.column ? (uint32_t)start.column[lane] : 0;
            sum[lane] = column * (start.scale ? (uint32_t)start.scale[r] : 1) + (start.shift ? (uint32_t)start.shift[r] : 0);
        }
        for (size_t k = 0; k < 4 * steps; k++) {
            const int32_t value = x[r * ld + k];
            for (size_t lane = 0; value && lane < SPPIM_PANEL; lane++)
                sum[lane] += (uint32_t)(value * quads[sppim_in_quads(k, lane)]);
        }
        store_sums(sum, out + r * ld_out, order);
    }
}

static void product_s16_ref(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int32_t *out,
                            size_t ld_out, int order)
{
    for (size_t r = 0; r < rows; r++) {
        uint32_t sum[SPPIM_PANEL] = {0};
        for (size_t k = 0; k < 2 * steps; k++) {
            const int32_t value = x[r * ld + k];
            for (size_t lane = 0; value && lane < SPPIM_PANEL; lane++)
                sum[lane] += (uint32_t)(value * pairs[sppim_in_pairs(k, lane)]);
        }
        store_sums(sum, out + r * ld_out, order);
    }
}

static void add_rows(const uint16_t *index, const int8_t *value, size_t count, const uint8_t *rows, int32_t *acc)
{
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; value[i] && c < SPPIM_GROUP; c++) {
            int32_t *sum = acc + c / SPPIM_PANEL * SPPIM_PANEL + sppim_column_lane(c % SPPIM_PANEL);
            *sum = (int32_t)((uint32_t)*sum + (uint32_t)(value[i] * rows[sppim_in_rows(index[i], c)]));
        }
}

static void product_sparse_s8_ref(sppim_nonzeros x, const uint8_t *rows, size_t group_stride, size_t groups, int32_t *acc,
                                  int32_t *acc_high)
{
    for (size_t g = 0; g < groups; g++) {
        add_rows(x.index, x.value, x.count, rows + g * group_stride, acc + g * SPPIM_GROUP);
        if (x.high)
            add_rows(x.index, x.high, x.count, rows + g * group_stride, acc_high + g * SPPIM_GROUP);
    }
}

static void product_sparse_s16_ref(sppim_nonzeros x, const int16_t *pairs, int32_t *acc)
{
    for (size_t i = 0; i < x.count; i++)
        for (size_t lane = 0; x.value16[i] && lane < SPPIM_PANEL; lane++)
            acc[lane] = (int32_t)((uint32_t)acc[lane] +
                                  (uint32_t)(x.value16[i] * pairs[sppim_in_pairs(x.index[i], lane)]));
}

static uint64_t product_finite_s16_ref(sppim_nonzeros x, const int16_t *pairs, sppim_accumulator accumulator, int32_t *acc)
{
    uint64_t changed = 0;
    for (size_t i = 0; i < x.count; i++)
        for (size_t lane = 0; x.value16[i] && lane < SPPIM_PANEL; lane++) {
            const int64_t exact = (int64_t)acc[lane] + x.value16[i] * pairs[sppim_in_pairs(x.index[i], lane)];
            acc[lane] = (int32_t)sppim_fit1(exact, accumulator);
            changed += acc[lane] != exact;
        }
    return changed;
}

static size_t requantize_relu_s32_ref(const int32_t *acc, int shift, int hi, int8_t *y)
{
    size_t saturated = 0;
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
        const int64_t rounded = sppim_shr(acc[lane], shift, SPPIM_RNU);
        saturated += rounded > hi;
        y[sppim_lane_column(lane)] = (int8_t)sppim_sat(rounded, 0, hi);
    }
    return saturated;
}

static size_t requantize_relu_s64_ref(const int64_t *acc, int shift, int round, int hi, int8_t *y)
{
    size_t saturated = 0;
    for (size_t c = 0; c < SPPIM_PANEL; c++) {
        const int64_t rounded = sppim_shr(acc[c], shift, round);
        saturated += rounded > hi;
        y[c] = (int8_t)sppim_sat(rounded, 0, hi);
    }
    return saturated;
}

static void widen_s32_ref(const int32_t *sum, size_t count, int64_t *acc)
{
    for (size_t i = 0; i < count; i++)
        acc[i] += sum[i];
}

static size_t gate_s32_ref(const int32_t *acc, const int8_t *y, int shift, int8_t *d)
{
    size_t saturated = 0;
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
        const size_t c = sppim_lane_column(lane);
        const int64_t rounded = y[c] > 0 ? sppim_shr(acc[lane], shift, SPPIM_RNU) : 0;
        d[c] = (int8_t)sppim_sat(rounded, -SPPIM_ERROR_MAX, SPPIM_ERROR_MAX);
        saturated += d[c] != rounded;
    }
    return saturated;
}

/* Stores a product weight in the wanted layouts; 1 if it is zero. */
static uint8_t store_weight(const sppim_update_rows *panel, size_t k, size_t lane, int v)
{
    if (panel->quads)
        panel->quads[sppim_in_quads(k, lane)] = (uint8_t)(v + SPPIM_OFFSET);
    if (panel->rows)
        panel->rows[sppim_in_rows(k, sppim_lane_column(lane))] = (uint8_t)(v + SPPIM_OFFSET);
    if (panel->pairs)
        panel->pairs[sppim_in_pairs(k, lane)] = (int16_t)v;
    return v == 0;
}

static size_t update_s16_ref(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                             sppim_update_rows panel)
{
    const sppim_key key = {u->k0, u->k1};
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r++) {
        uint8_t zeros = 0;
        for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
            const int32_t g = gradient[r * ld + lane];
            const uint32_t i = index + (uint32_t)(r * u->columns + sppim_lane_column(lane));
            const int64_t q = u->round == SPPIM_SR ? sppim_sr(g, u->shift, sppim_draw16_1(key, i))
                                                   : sppim_shr(g, u->shift, u->round);
            const size_t place = sppim_in_pairs(r, lane);
            const int64_t exact = panel.w[place] - q;
            panel.w_next[place] = (int16_t)sppim_sat(exact, -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX);
            clipped += panel.w_next[place] != exact;
            zeros += store_weight(&panel, r, lane, (int)sppim_product_weight(panel.w_next[place], u->product_bits));
        }
        panel.zeros[r] = zeros;
    }
    return clipped;
}

void sppim_kernels_install_ref(sppim_kernels *table)
{
    table->compress_s8 = compress_s8_ref;
    table->compress_s16 = compress_s16_ref;
    table->columns_s32 = columns_s32_ref;
    table->census_s8 = census_s8_ref;
    table->tally_s8 = tally_s8_ref;
    table->transpose_s8 = transpose_s8_ref;
    table->pack_s8 = pack_s8_ref;
    table->product_s8 = product_s8_ref;
    table->product_s16 = product_s16_ref;
    table->product_sparse_s8 = product_sparse_s8_ref;
    table->product_sparse_s16 = product_sparse_s16_ref;
    table->product_finite_s16 = product_finite_s16_ref;
    table->requantize_relu_s32 = requantize_relu_s32_ref;
    table->requantize_relu_s64 = requantize_relu_s64_ref;
    table->widen_s32 = widen_s32_ref;
    table->gate_s32 = gate_s32_ref;
    table->update_s16 = update_s16_ref;
}
