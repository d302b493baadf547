/* Reference kernels: plain loops over fixed.h. What they compute is what every other level must compute. */
#include <string.h>

#include "fixed.h"
#include "kernels.h"

static bool listed(int x, int which) { return which == SPPIM_ALL ? x != 0 : which == SPPIM_NEGATIVE ? x < 0 : x > 0; }

static int listed_value(int x, int which) { return which == SPPIM_NEGATIVE ? -x : x; }

static size_t compress_s8_ref(const int8_t *x, size_t count, int which, uint16_t *index, uint8_t *value)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        index[found] = (uint16_t)i;
        value[found] = (uint8_t)listed_value(x[i], which);
        found += listed(x[i], which);
    }
    return found;
}

static size_t compress_s16s8_ref(const int16_t *x, size_t count, int which, uint16_t *index, uint8_t *value, uint8_t *high)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        const unsigned word = (unsigned)listed_value(x[i], which);
        index[found] = (uint16_t)i;
        value[found] = (uint8_t)word;
        high[found] = (uint8_t)(word >> 8);
        found += listed(x[i], which);
    }
    return found;
}

static size_t compress_s16_ref(const int16_t *x, size_t count, uint16_t *index, int16_t *value)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        index[found] = (uint16_t)i;
        value[found] = x[i];
        found += x[i] != 0;
    }
    return found;
}

static size_t census_s8_ref(const int8_t *x, size_t count, uint8_t *bits)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        found += x[i] != 0;
        *bits |= (uint8_t)x[i];
    }
    return found;
}

static size_t census_s16_ref(const int16_t *x, size_t count, int16_t *low, int16_t *high)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        found += x[i] != 0;
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
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

static void pack_s8_ref(const int8_t *x, const uint16_t *row, size_t rows, size_t ld, int8_t *quads, size_t quad_stride,
                        int8_t *out_rows)
{
    for (size_t i = 0; i < sppim_round_up(rows, SPPIM_DEPTH); i++)
        for (size_t c = 0; c < SPPIM_GROUP; c++) {
            const int8_t value = i < rows ? x[row[i] * ld + c] : 0;
            if (quads)
                quads[c / SPPIM_PANEL * quad_stride + sppim_in_quads(i, sppim_column_lane(c % SPPIM_PANEL))] = value;
            if (out_rows)
                out_rows[sppim_in_rows(i, c)] = value;
        }
}

/* Sums are formed modulo 2^32 like those of the vector levels. */
static void begin_sums(sppim_start start, size_t row, uint32_t *sum)
{
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
        sum[lane] = (start.column ? (uint32_t)start.column[lane] : 0) * (start.scale ? (uint32_t)start.scale[row] : 1);
}

static void store_sums(const uint32_t *sum, int32_t *out, int order)
{
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
        out[order == SPPIM_LANES ? lane : sppim_lane_column(lane)] = (int32_t)sum[lane];
}

static void product_s8_ref(const int8_t *x, size_t ld, size_t rows, size_t steps, int flip, const int8_t *quads,
                           sppim_start start, int32_t *out, size_t ld_out, int order)
{
    for (size_t r = 0; r < rows; r++) {
        uint32_t sum[SPPIM_PANEL];
        begin_sums(start, r, sum);
        for (size_t k = 0; k < 4 * steps; k++) {
            const int32_t value = (uint8_t)x[r * ld + k] ^ flip;
            for (size_t lane = 0; value && lane < SPPIM_PANEL; lane++)
                sum[lane] += (uint32_t)(value * quads[sppim_in_quads(k, lane)]);
        }
        store_sums(sum, out + r * ld_out, order);
    }
}

static void product_s16_ref(const int16_t *x, size_t ld, size_t rows, size_t steps, const int16_t *pairs, int shift,
                            const int64_t *start, int64_t *out, size_t ld_out)
{
    for (size_t r = 0; r < rows; r++) {
        int64_t sum[SPPIM_PANEL] = {0};
        for (size_t k = 0; k < 2 * steps; k++) {
            const int32_t value = x[r * ld + k];
            for (size_t lane = 0; value && lane < SPPIM_PANEL; lane++)
                sum[lane] += value * pairs[sppim_in_pairs(k, lane)];
        }
        for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
            const size_t c = sppim_lane_column(lane);
            out[r * ld_out + c] = (start ? start[c] : out[r * ld_out + c]) + sum[lane] * ((int64_t)1 << shift);
        }
    }
}

static void product_sparse_s8_ref(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups,
                                  sppim_start start, int32_t *out, int order)
{
    for (size_t p = 0; p < 2 * groups; p++) {
        const int8_t *panel = rows + p / 2 * group_stride + p % 2 * SPPIM_PANEL;
        uint32_t sum[SPPIM_PANEL];
        begin_sums((sppim_start){start.column ? start.column + p * SPPIM_PANEL : NULL, start.scale}, 0, sum);
        for (size_t i = 0; i < x.count; i++) {
            const int32_t value = i < x.negatives ? -x.value[i] : x.value[i];
            for (size_t lane = 0; value && lane < SPPIM_PANEL; lane++)
                sum[lane] += (uint32_t)(value * panel[sppim_in_rows(x.index[i], sppim_lane_column(lane))]);
        }
        store_sums(sum, out + p * SPPIM_PANEL, order);
    }
}

static void product_sparse_s16s8_ref(sppim_nonzeros x, const int8_t *rows, size_t group_stride, size_t groups, int64_t *out)
{
    memset(out, 0, groups * SPPIM_GROUP * sizeof *out);
    for (size_t i = 0; i < x.count; i++) {
        const int64_t magnitude = 256 * x.high[i] + x.value[i], value = i < x.negatives ? -magnitude : magnitude;
        for (size_t c = 0; value && c < groups * SPPIM_GROUP; c++)
            out[c] += value * rows[c / SPPIM_GROUP * group_stride + sppim_in_rows(x.index[i], c % SPPIM_GROUP)];
    }
}

static void product_sparse_s16_ref(sppim_nonzeros x, const int16_t *words, size_t group_stride, size_t groups,
                                   const int64_t *start, int64_t *out)
{
    if (start)
        memcpy(out, start, groups * SPPIM_GROUP * sizeof *out);
    for (size_t i = 0; i < x.count; i++)
        for (size_t c = 0; x.value16[i] && c < groups * SPPIM_GROUP; c++)
            out[c] += x.value16[i] * words[c / SPPIM_GROUP * group_stride + sppim_in_rows(x.index[i], c % SPPIM_GROUP)];
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
        panel->quads[sppim_in_quads(k, lane)] = (int8_t)v;
    if (panel->rows)
        panel->rows[sppim_in_rows(k, sppim_lane_column(lane))] = (int8_t)v;
    if (panel->pairs)
        panel->pairs[sppim_in_pairs(k, lane)] = (int16_t)v;
    if (panel->words)
        panel->words[sppim_in_rows(k, sppim_lane_column(lane))] = (int16_t)v;
    return v == 0;
}

/* Row r of a panel; returns the number of clipped weights. */
static size_t update_row(const sppim_update *u, const int32_t *gradient, size_t r, uint32_t index,
                         const sppim_update_rows *panel)
{
    const sppim_key key = {u->k0, u->k1};
    size_t clipped = 0;
    uint8_t zeros = 0;
    for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
        const uint32_t i = index + (uint32_t)(r * u->columns + sppim_lane_column(lane));
        const int64_t q = u->round == SPPIM_SR ? sppim_sr(gradient[lane], u->shift, sppim_draw16_1(key, i))
                                               : sppim_shr(gradient[lane], u->shift, u->round);
        const size_t place = sppim_in_pairs(r, lane);
        const int64_t exact = panel->w[place] - q;
        panel->w_next[place] = (int16_t)sppim_sat(exact, -SPPIM_WEIGHT_MAX, SPPIM_WEIGHT_MAX);
        clipped += panel->w_next[place] != exact;
        zeros += store_weight(panel, r, lane, (int)sppim_product_weight(panel->w_next[place], u->product_bits));
    }
    panel->zeros[r] = zeros;
    return clipped;
}

static size_t update_s16_ref(const sppim_update *u, const int32_t *gradient, size_t ld, size_t rows, uint32_t index,
                             sppim_update_rows panel)
{
    size_t clipped = 0;
    for (size_t r = 0; r < rows; r++)
        clipped += update_row(u, gradient + r * ld, r, index, &panel);
    return clipped;
}

static size_t update_outer_s16_ref(const sppim_update *u, const int16_t *row, const int16_t *error, const uint16_t *pair,
                                   size_t pairs, uint32_t index, sppim_update_rows panel)
{
    size_t clipped = 0;
    for (size_t i = 0; i < 2 * pairs; i++) {
        const size_t r = 2 * (size_t)pair[i / 2] + i % 2;
        int32_t gradient[SPPIM_PANEL];
        for (size_t lane = 0; lane < SPPIM_PANEL; lane++)
            gradient[lane] = row[r] * error[lane];
        clipped += update_row(u, gradient, r, index, &panel);
    }
    return clipped;
}

void sppim_kernels_install_ref(sppim_kernels *table)
{
    table->compress_s8 = compress_s8_ref;
    table->compress_s16s8 = compress_s16s8_ref;
    table->compress_s16 = compress_s16_ref;
    table->census_s8 = census_s8_ref;
    table->census_s16 = census_s16_ref;
    table->tally_s8 = tally_s8_ref;
    table->transpose_s8 = transpose_s8_ref;
    table->pack_s8 = pack_s8_ref;
    table->product_s8 = product_s8_ref;
    table->product_s16 = product_s16_ref;
    table->product_sparse_s8 = product_sparse_s8_ref;
    table->product_sparse_s16s8 = product_sparse_s16s8_ref;
    table->product_sparse_s16 = product_sparse_s16_ref;
    table->product_finite_s16 = product_finite_s16_ref;
    table->requantize_relu_s32 = requantize_relu_s32_ref;
    table->requantize_relu_s64 = requantize_relu_s64_ref;
    table->gate_s32 = gate_s32_ref;
    table->update_s16 = update_s16_ref;
    table->update_outer_s16 = update_outer_s16_ref;
}
