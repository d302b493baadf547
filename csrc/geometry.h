/* Geometry of a layer (A12.1, A12.3, A12.4). */
#ifndef SPPIM_GEOMETRY_H
#define SPPIM_GEOMETRY_H

#include <stdbool.h>

#include "sppim.h"
#include "window.h"

typedef struct sppim_geometry {
    bool windowed;
    size_t k, channels;             /* operands of a position; values of an input pixel */
    size_t positions, down, across; /* of the window */
    sppim_tiling pooling, scores;   /* of the positions, of the pixels of the output */
    size_t outputs, features;       /* values */
} sppim_geometry;

/* SPPIM_OK, or what is wrong with inputs, outputs, window, pooling or score window. */
sppim_status sppim_geometry_of(const sppim_layer_config *config, sppim_geometry *geometry);

/* The feature that output j belongs to (A12.4). */
static inline size_t sppim_feature_of(const sppim_tiling *scores, size_t n, size_t j)
{
    const size_t pixel = j / n, row = pixel / scores->width / scores->size, column = pixel % scores->width / scores->size;
    return (row * scores->across + column) * n + j % n;
}

#endif
