/* Packed weights and engines: what products on their own (A11) need before they start. */
#include "matrix.h"

#include <stdlib.h>
#include <string.h>

#include "fixed.h"

#define ALIGNMENT 64

bool sppim_path_valid(int32_t path) { return path >= 0 && path < SPPIM_PATH_COUNT; }

/* ---- weights --------------------------------------------------------------------------------------------------- */

static int weight_at(const void *w, int32_t type, size_t i)
{
    if (type == SPPIM_S16)
        return ((const int16_t *)w)[i];
    return type == SPPIM_S8 ? ((const int8_t *)w)[i] : (int)sppim_pot_mac1(0, 1, ((const uint8_t *)w)[i]);
}

static void pack(sppim_weights *p, const void *w, int32_t type)
{
    for (size_t panel = 0; panel < p->panels; panel++)
        for (size_t k = 0; k < p->depth; k++)
            for (size_t lane = 0; lane < SPPIM_PANEL; lane++) {
                const size_t n = panel * SPPIM_PANEL + sppim_lane_column(lane), at = panel * p->depth * SPPIM_PANEL;
                const int v = k < p->k && n < p->n ? weight_at(w, type, k * p->n + n) : 0;
                p->pairs[at + sppim_in_pairs(k, lane)] = (int16_t)v;
                if (abs(v) > p->largest)
                    p->largest = abs(v);
                const size_t in_group = n / SPPIM_GROUP * p->depth * SPPIM_GROUP + sppim_in_rows(k, n % SPPIM_GROUP);
                if (p->bytes) {
                    p->quads[at + sppim_in_quads(k, n % SPPIM_PANEL)] = (int8_t)v;
                    p->rows[in_group] = (int8_t)v;
                    p->signed_start[n] -= SPPIM_SIGNED * v;
                } else {
                    p->words[in_group] = (int16_t)v;
                }
            }
}

static bool codes_valid(const void *w, int32_t type, size_t count)
{
    for (size_t i = 0; type == SPPIM_POT && i < count; i++)
        if (((const uint8_t *)w)[i] > 15)
            return false;
    return true;
}

static void *take(size_t size) { return aligned_alloc(ALIGNMENT, sppim_round_up(size, ALIGNMENT)); }

static void *take_zeros(size_t size)
{
    void *memory = take(size);
    return memory ? memset(memory, 0, size) : NULL;
}

static bool take_layouts(sppim_weights *p)
{
    const size_t cells = p->panels * p->depth * SPPIM_PANEL, rows = p->groups * p->depth * SPPIM_GROUP;
    p->pairs = take(cells * sizeof *p->pairs);
    if (!p->bytes) {
        p->words = take_zeros(rows * sizeof *p->words); /* the last group may have columns that no panel has */
        return p->pairs && p->words;
    }
    p->quads = take(cells);
    p->rows = take_zeros(rows);
    p->signed_start = take_zeros(p->panels * SPPIM_PANEL * sizeof *p->signed_start);
    return p->pairs && p->quads && p->rows && p->signed_start;
}

sppim_status sppim_weights_create(const void *w, int32_t type, size_t k, size_t n, sppim_weights **weights)
{
    if (!w || !weights)
        return SPPIM_ERROR_NULL;
    if (type != SPPIM_S8 && type != SPPIM_S16 && type != SPPIM_POT)
        return SPPIM_ERROR_RANGE;
    if (k < 1 || k > 65535 || n < 1 || n > 65535)
        return SPPIM_ERROR_SHAPE;
    if (!codes_valid(w, type, k * n))
        return SPPIM_ERROR_RANGE;
    sppim_weights *p = calloc(1, sizeof *p);
    if (!p)
        return SPPIM_ERROR_MEMORY;
    *p = (sppim_weights){.k = k, .n = n, .panels = sppim_ceil_div(n, SPPIM_PANEL),
                         .groups = sppim_ceil_div(n, SPPIM_GROUP), .depth = sppim_round_up(k, SPPIM_DEPTH),
                         .bytes = type != SPPIM_S16};
    if (!take_layouts(p)) {
        sppim_weights_destroy(p);
        return SPPIM_ERROR_MEMORY;
    }
    pack(p, w, type);
    *weights = p;
    return SPPIM_OK;
}

void sppim_weights_destroy(sppim_weights *weights)
{
    if (!weights)
        return;
    free(weights->pairs);
    free(weights->quads);
    free(weights->rows);
    free(weights->signed_start);
    free(weights->words);
    free(weights);
}

/* ---- engines ---------------------------------------------------------------------------------------------------- */

sppim_status sppim_engine_create(int32_t threads, const char *isa, sppim_engine **engine)
{
    if (!engine)
        return SPPIM_ERROR_NULL;
    if (!sppim_within(threads, 1, 256))
        return SPPIM_ERROR_RANGE;
    const sppim_kernels *kernels = sppim_kernels_find(isa);
    if (!kernels)
        return SPPIM_ERROR_ISA;
    sppim_engine *e = calloc(1, sizeof *e);
    if (!e)
        return SPPIM_ERROR_MEMORY;
    e->kernels = kernels;
    e->threads = (size_t)threads;
    e->pool = sppim_pool_create(threads);
    atomic_flag_clear(&e->busy);
    if (!e->pool) {
        free(e);
        return SPPIM_ERROR_MEMORY;
    }
    *engine = e;
    return SPPIM_OK;
}

void sppim_engine_destroy(sppim_engine *engine)
{
    if (!engine)
        return;
    sppim_pool_destroy(engine->pool);
    free(engine->memory);
    free(engine);
}

void *sppim_engine_memory(sppim_engine *engine, size_t size)
{
    if (size > engine->size) {
        free(engine->memory);
        engine->memory = take(size);
        engine->size = engine->memory ? sppim_round_up(size, ALIGNMENT) : 0;
    }
    return engine->memory;
}
