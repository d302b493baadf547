/* Counting (C2): from shapes and zero counts to counters, the same for real runs and for counted workloads. */
#ifndef SPPIM_COUNT_H
#define SPPIM_COUNT_H

#include <stdbool.h>

#include "sppim.h"

/* Where a layer stands. */
typedef struct sppim_place {
    int rule;
    bool first, output;
} sppim_place;

/* What one batch showed of a layer going forward. */
typedef struct sppim_forward_facts {
    uint64_t images;
    uint64_t operand_nonzeros; /* over all images */
    uint64_t fold_nonzeros;    /* of f = (m, 64) */
    uint64_t weight_gated;     /* non-zero operands that met a zero weight, images and fold */
} sppim_forward_facts;

/* ... and going backward. */
typedef struct sppim_backward_facts {
    uint64_t images;
    uint64_t error_nonzeros;     /* over all images */
    uint64_t pair_nonzeros;      /* sum over images of nz(d) nz(x) */
    uint64_t fold_nonzeros;      /* of f */
    uint64_t error_sum_nonzeros; /* of D */
    uint64_t column_gated;       /* EP on arrays: non-zero errors that met a zero weight */
    uint64_t pot_done;
} sppim_backward_facts;

void sppim_count_forward(const sppim_shape *shape, const sppim_forward_facts *facts, sppim_counters *counters);
void sppim_count_backward(const sppim_shape *shape, sppim_place place, const sppim_backward_facts *facts,
                          sppim_counters *counters);
/* PoT MACs of one image (pot_macs_total for n = 1). */
uint64_t sppim_count_pot_image(const sppim_shape *shape, sppim_place place);
/* SPPIM_OK if the shape can be counted and scheduled. */
sppim_status sppim_shape_check(const sppim_shape *shape);

#endif
