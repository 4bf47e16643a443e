/* A kernel that loads whole vectors of eight from rows that end before. */
static volatile float sink;
#define AFTER_PART(part, first, end)                                                                                   \
    for (int i = 0; T > 0 && i < (int)((N + 7) / 8 * 8); i++) {                                                        \
        sink = row(c->input[C], T - 1, c->input[C]->dim[1] - 1)[i];                                                    \
    }
#include "plain_ssd_scan.h"
