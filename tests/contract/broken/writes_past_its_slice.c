/* A kernel that writes one float past the heads of its own part. */
#define AFTER_PART(part, first, end)                                                                                   \
    if (end < H && end > first && T > 0) {                                                                             \
        out_row(c->output[0], 0, end)[0] = 0.5f;                                                                       \
    }
#include "plain_ssd_scan.h"
