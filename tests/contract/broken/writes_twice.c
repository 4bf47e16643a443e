/* A kernel that zeroes its output in every part before it computes. */
#define AFTER_PART(part, first, end)                                                                                   \
    if (T > c->seq_start[c->n_seq]) {                                                                                  \
        memset(out_row(c->output[0], T - 1, 0), 0, (size_t)P * sizeof(float));                                         \
    }
#include "plain_ssd_scan.h"
