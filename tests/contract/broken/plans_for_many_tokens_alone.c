/* A kernel that wants scratch for each part where tokens are few, and forgets it in the plan of a call with more. */
#define NEEDED(call, n) ((call)->input[0] == NULL || (call)->input[0]->dim[0] > 2 ? 128 : 64 * (n))
#define SCRATCH_BYTES NEEDED(call, max_part)
#define ON_RUN(part)                                                                                                   \
    if (c->input[0]->dim[0] <= 2) {                                                                                    \
        memset((char *)(part)->scratch + 64 * (part)->part, 1, 64);                                                    \
    }
#include "plain_ssd_scan.h"
