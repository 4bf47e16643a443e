/* A kernel that moves the offsets of the sequences while it works. */
#define AFTER_PART(part, first, end)                                                                                   \
    if (c->n_seq > 0) {                                                                                                \
        ((int32_t *)(uintptr_t)c->slot)[0] += 1;                                                                       \
    }
#include "plain_ssd_scan.h"
