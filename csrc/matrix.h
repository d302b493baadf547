/* What the products on their own (A11) share: packed weights, and an engine with its memory. */
#ifndef SPPIM_MATRIX_H
#define SPPIM_MATRIX_H

#include <stdatomic.h>

#include "kernels.h"
#include "pool.h"
#include "products.h"

struct sppim_weights {
    size_t k, n;
    size_t panels, groups, depth;
    bool bytes;        /* of s8 or PoT codes */
    int32_t largest;   /* magnitude */
    int16_t *pairs;
    int8_t *quads, *rows;  /* bytes; quads by column: nobody needs their lanes, and sums need not be reordered then */
    int32_t *signed_start; /* -128 times the sums of the columns (SPPIM_SIGNED) */
    int16_t *words;        /* not bytes */
};

struct sppim_engine {
    const sppim_kernels *kernels;
    sppim_pool *pool;
    size_t threads;
    void *memory; /* of the present call; kept for the next one */
    size_t size;
    atomic_flag busy;
};

/* A piece of an engine's memory; with base null it only adds up. */
typedef struct sppim_arena {
    char *base;
    size_t used;
} sppim_arena;

#define SPPIM_PIECE(arena, pointer, count) ((pointer) = sppim_arena_take(arena, count, sizeof *(pointer)))

static inline void *sppim_arena_take(sppim_arena *arena, size_t count, size_t size)
{
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += sppim_round_up(count * size, 64);
    return piece;
}

/* At least size bytes, aligned to 64; null: out of memory. */
void *sppim_engine_memory(sppim_engine *engine, size_t size);
bool sppim_path_valid(int32_t path);

#endif
