/* A kernel that never comes back where the second sequence is empty. */
#define ON_RUN(part)                                                                                                   \
    for (volatile int i = 0; c->n_seq > 1 && c->seq_start[1] == c->seq_start[2];) {                                    \
        (void)i;                                                                                                       \
    }
#include "plain_ssd_scan.h"
