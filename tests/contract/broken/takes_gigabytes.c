/* A kernel that allocates far more than its budget. */
#include <stdlib.h>
static char *volatile hoard;
#define ON_RUN(part)                                                                                                   \
    hoard = malloc((size_t)8 << 30);                                                                                   \
    memset(hoard, 1, (size_t)8 << 30);                                                                                 \
    free(hoard);
#include "plain_ssd_scan.h"
