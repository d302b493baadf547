#include "geometry.h"

#include "fixed.h"

static sppim_tiling tiles(size_t height, size_t width, size_t size, bool whole)
{
    const size_t more = whole ? 0 : size - 1;
    return (sppim_tiling){height, width, size, (height + more) / size, (width + more) / size};
}

/* A12.3: no pooling is pooling by one. */
static sppim_status pool(const sppim_layer_config *c, sppim_geometry *g)
{
    const size_t size = c->pooling ? (size_t)c->pooling_size : 1;
    if (!sppim_within(c->pooling, 0, SPPIM_POOLING_COUNT - 1) ||
        (c->pooling ? !sppim_within(c->pooling_size, 2, 16) : c->pooling_size != 0) ||
        !sppim_within(c->score_window, 1, 16))
        return SPPIM_ERROR_RANGE;
    if (size > g->down || size > g->across || (!g->windowed && (c->pooling || c->score_window != 1)))
        return SPPIM_ERROR_SHAPE;
    g->pooling = tiles(g->down, g->across, size, true);
    g->scores = tiles(g->pooling.down, g->pooling.across, (size_t)c->score_window, false);
    g->outputs = g->pooling.down * g->pooling.across * (size_t)c->outputs;
    g->features = g->scores.down * g->scores.across * (size_t)c->outputs;
    return SPPIM_OK;
}

static sppim_status move_window(const sppim_layer_config *c, sppim_geometry *g)
{
    const sppim_window *w = &c->window;
    const sppim_status status = sppim_window_outputs(w, &g->down, &g->across);
    if (status != SPPIM_OK)
        return status;
    const uint64_t channels = (uint64_t)w->channels, window = (uint64_t)w->rows * (uint64_t)w->columns;
    if ((uint64_t)w->height * (uint64_t)w->width > (1u << 20) || (uint64_t)g->down * g->across > 1u << 16 ||
        window > 65535 || window * channels > 65535)
        return SPPIM_ERROR_RANGE;
    if ((uint64_t)w->height * (uint64_t)w->width * channels != (uint64_t)c->inputs)
        return SPPIM_ERROR_SHAPE;
    g->k = (size_t)(window * channels);
    g->channels = (size_t)channels;
    g->positions = g->down * g->across;
    return SPPIM_OK;
}

sppim_status sppim_geometry_of(const sppim_layer_config *c, sppim_geometry *g)
{
    *g = (sppim_geometry){.windowed = c->window.struct_size != 0, .positions = 1, .down = 1, .across = 1};
    if (!sppim_within(c->inputs, 1, g->windowed ? 1 << 20 : 65535) || !sppim_within(c->outputs, 1, 65535))
        return SPPIM_ERROR_RANGE;
    g->k = g->channels = (size_t)c->inputs;
    sppim_status status = g->windowed ? move_window(c, g) : SPPIM_OK;
    if (status == SPPIM_OK)
        status = pool(c, g);
    if (status == SPPIM_OK && g->positions > 1 && (g->outputs > 1 << 17 || g->positions * (size_t)c->outputs > 1 << 20))
        status = SPPIM_ERROR_RANGE;
    return status;
}

sppim_status sppim_layer_image(const sppim_layer_config *config, size_t *height, size_t *width)
{
    if (!config || !height || !width)
        return SPPIM_ERROR_NULL;
    sppim_geometry g;
    const sppim_status status = sppim_geometry_of(config, &g);
    if (status != SPPIM_OK)
        return status;
    *height = g.pooling.down;
    *width = g.pooling.across;
    return SPPIM_OK;
}

sppim_status sppim_layer_shape(const sppim_layer_config *config, int64_t classes, sppim_shape *shape)
{
    if (!config || !shape)
        return SPPIM_ERROR_NULL;
    sppim_geometry g;
    const sppim_status status = sppim_geometry_of(config, &g);
    if (status != SPPIM_OK)
        return status;
    *shape = (sppim_shape){.struct_size = sizeof *shape,
                           .rows = (int64_t)g.k,
                           .columns = config->outputs,
                           .positions = (int64_t)g.positions,
                           .inputs = config->inputs,
                           .outputs = (int64_t)g.outputs,
                           .features = (int64_t)g.features,
                           .classes = classes,
                           .pooled = config->pooling != SPPIM_POOLING_NONE,
                           .bias = 1,
                           .centred = config->centred,
                           .activation_bytes = 1,
                           .weight_bytes = 2,
                           .macros = 1};
    return SPPIM_OK;
}
