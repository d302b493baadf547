/* Default formats of a multi-layer perceptron (A9). */
#include <string.h>

#include "fixed.h"

static int at_least(int low, int x)
{
    return x < low ? low : x;
}

static int ceil_log2(int64_t n)
{
    int i = 0;
    while (((int64_t)1 << i) < n)
        i++;
    return i;
}

static int round_log2(int64_t k)
{
    int i = 0;
    while (k * k >= (int64_t)1 << (2 * i + 1))
        i++;
    return i;
}

static int64_t isqrt(int64_t x)
{
    int64_t root = 0;
    for (int64_t bit = (int64_t)1 << 20; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= x)
            root += bit;
    return root;
}

/* The F with 2^23 <= 6 x 4^F div K < 2^25. */
static int weight_fraction(int64_t inputs)
{
    int f = 0;
    while ((((int64_t)6 << (2 * f)) / inputs) >> 23 == 0)
        f++;
    return f;
}

/* Rates of hidden layers: not centred, centred. */
static const int hidden_rates[SPPIM_RULE_COUNT][2] = {
    [SPPIM_RULE_LOCAL] = {7, 12},
    [SPPIM_RULE_DRTP] = {17, 18},
    [SPPIM_RULE_DFA] = {14, 13},
    [SPPIM_RULE_BP] = {6, 5},
};

static int update_shift(const sppim_layer_config *c, int rule, int input_frac, int output)
{
    const int base = output ? (c->centred ? 9 : 7) : hidden_rates[rule][c->centred];
    const int by_inputs = output || rule == SPPIM_RULE_BP;
    const int by_size = by_inputs ? round_log2(c->inputs) : (ceil_log2(c->outputs) + 1) / 2;
    return at_least(0, base + by_size + input_frac - c->weight_frac);
}

sppim_status sppim_layer_defaults(int32_t inputs, int32_t outputs, int32_t rule, int32_t product_bits,
                                  int32_t centred, int32_t first, int32_t output,
                                  sppim_layer_config *config)
{
    if (!config)
        return SPPIM_ERROR_NULL;
    if (inputs < 1 || inputs > 65535 || outputs < 1 || outputs > 65535 || rule < 0 ||
        rule >= SPPIM_RULE_COUNT || product_bits < 2 || product_bits > 16)
        return SPPIM_ERROR_RANGE;
    const int input_frac = first ? 7 : 5;
    sppim_layer_config c;
    memset(&c, 0, sizeof c);
    c.struct_size = sizeof c;
    c.inputs = inputs;
    c.outputs = outputs;
    c.weight_frac = weight_fraction(inputs);
    c.init_bound = (int32_t)isqrt(((int64_t)6 << (2 * c.weight_frac)) / inputs) / (output ? 2 : 1);
    c.product_bits = product_bits;
    const int product_frac = c.weight_frac - 16 + product_bits;
    c.fp_shift = output ? 0 : at_least(0, product_frac + input_frac - 5);
    c.fp_round = SPPIM_RNU;
    c.activation_max = 127;
    c.margin_log2 = output ? at_least(7, product_frac + input_frac) : 7 + (ceil_log2(outputs) + 1) / 2;
    c.delta_shift = output ? 0 : 4;
    c.bp_shift = at_least(0, product_frac);
    c.centred = centred != 0;
    c.update_shift = update_shift(&c, rule, input_frac, output);
    c.update_round = SPPIM_SR;
    c.pot_levels = 4;
    *config = c;
    return SPPIM_OK;
}
