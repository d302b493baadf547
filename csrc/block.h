/* Products of some rows of operands with some columns of a layer's weights (A5.4), and what becomes of the sums. */
#ifndef SPPIM_BLOCK_H
#define SPPIM_BLOCK_H

#include "job.h"

typedef struct sppim_block {
    const sppim_job *job;
    size_t rows;
    size_t column, width;   /* whole groups; the last one may lack a panel */
    size_t panels;
    const int8_t *x;        /* [rows][ld] operands as they are, of products of bytes, */
    const int16_t *x16;     /* [rows][ld] or of words, */
    size_t ld;
    const sppim_list *list; /* or lists of the non-zeros: of these rows from list row `first` on */
    size_t first;
    sppim_scratch *scratch; /* the sums */
} sppim_block;

/* The non-zeros of one row of operands, as the layer's products want them, into a row of a list. */
void sppim_list_operands(const sppim_job *job, const int8_t *x, sppim_list *list, size_t row);
/* Columns of the group `group` and those after it, job->span groups at most. */
void sppim_block_columns(sppim_block *block, size_t group);
void sppim_block_multiply(const sppim_block *block);
/* A5.5 into y[rows][ld], from the block's first column on; writes whole panels. */
void sppim_block_activations(const sppim_block *block, int8_t *y, size_t ld);
/* A5.6 into scores[rows][N]. */
void sppim_block_scores(const sppim_block *block, int64_t *scores);

#endif
