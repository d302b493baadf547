/* Default formats of a multi-layer perceptron (A9). */
#include "fixed.h"
#include "geometry.h"

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
    [SPPIM_RULE_LOCAL] = {7, 11},
    [SPPIM_RULE_DRTP] = {17, 18},
    [SPPIM_RULE_DFA] = {14, 13},
    [SPPIM_RULE_BP] = {6, 5},
};

/* What the errors of a layer grow with, as powers of two: features that are projected, pixels that one of them sums; and
 * what its gradient grows with: positions. */
typedef struct size_logs {
    int features, window, positions;
} size_logs;

/* Rates of a convolution are smaller. */
static int window_rate(int rule, size_logs logs)
{
    return rule == SPPIM_RULE_BP ? 4 + logs.positions : rule == SPPIM_RULE_LOCAL ? 1 : 0;
}

static int update_shift(const sppim_layer_config *c, int64_t k, int rule, int input_frac, int output, size_logs logs)
{
    const int windowed = c->window.struct_size != 0 && !output;
    const int base = output ? (c->centred ? 9 : 7) : hidden_rates[rule][c->centred] + (windowed ? window_rate(rule, logs) : 0);
    const int by_inputs = output || rule == SPPIM_RULE_BP;
    const int by_size = by_inputs ? round_log2(k) : logs.features + logs.window;
    return at_least(0, base + by_size + input_frac - c->weight_frac);
}

/* A9 for a layer whose geometry is in *c. */
static sppim_status fill(sppim_layer_config *c, int32_t rule, int32_t product_bits, int32_t centred, int32_t first,
                         int32_t output)
{
    sppim_geometry g;
    const sppim_status status = sppim_geometry_of(c, &g);
    if (status != SPPIM_OK)
        return status;
    if (rule < 0 || rule >= SPPIM_RULE_COUNT || product_bits < 2 || product_bits > 16)
        return SPPIM_ERROR_RANGE;
    const int64_t k = (int64_t)g.k;
    const int input_frac = first ? 7 : 5;
    const size_logs logs = {(ceil_log2((int64_t)g.features) + 1) / 2, ceil_log2((int64_t)(g.scores.size * g.scores.size)),
                            ceil_log2((int64_t)g.positions)};
    c->weight_frac = weight_fraction(k);
    c->init_bound = (int32_t)isqrt(((int64_t)6 << (2 * c->weight_frac)) / k) / (output ? 2 : 1);
    c->product_bits = product_bits;
    const int product_frac = c->weight_frac - 16 + product_bits;
    c->fp_shift = output ? 0 : at_least(0, product_frac + input_frac - (g.windowed ? 5 : 4));
    c->fp_round = SPPIM_RNU;
    c->activation_max = 127;
    c->margin_log2 = output ? at_least(7, product_frac + input_frac) : 7 + logs.features + logs.window;
    c->delta_shift = output ? 0 : 4;
    c->bp_shift = at_least(0, product_frac);
    c->centred = centred != 0;
    c->update_shift = update_shift(c, k, rule, input_frac, output, logs);
    c->update_round = SPPIM_SR;
    c->pot_levels = 4;
    c->weight_bits = 16;
    c->error_bits = 8;
    return SPPIM_OK;
}

sppim_status sppim_layer_defaults(int32_t inputs, int32_t outputs, int32_t rule, int32_t product_bits,
                                  int32_t centred, int32_t first, int32_t output,
                                  sppim_layer_config *config)
{
    if (!config)
        return SPPIM_ERROR_NULL;
    sppim_layer_config c = {.struct_size = sizeof c, .inputs = inputs, .outputs = outputs, .score_window = 1};
    const sppim_status status = fill(&c, rule, product_bits, centred, first, output);
    if (status == SPPIM_OK)
        *config = c;
    return status;
}

sppim_status sppim_convolution_defaults(const sppim_window *window, int32_t outputs, int32_t pooling,
                                        int32_t pooling_size, int32_t score_window, int32_t rule,
                                        int32_t product_bits, int32_t centred, int32_t first,
                                        sppim_layer_config *config)
{
    if (!window || !config)
        return SPPIM_ERROR_NULL;
    const int64_t pixels = (int64_t)window->height * window->width;
    if (!sppim_within(pixels, 1, 1 << 20) || !sppim_within(window->channels, 1, (1 << 20) / pixels))
        return SPPIM_ERROR_RANGE;
    sppim_layer_config c = {.struct_size = sizeof c, .inputs = (int32_t)(pixels * window->channels), .outputs = outputs,
                            .window = *window, .pooling = pooling, .pooling_size = pooling_size,
                            .score_window = score_window};
    const sppim_status status = fill(&c, rule, product_bits, centred, first, 0);
    if (status == SPPIM_OK)
        *config = c;
    return status;
}
