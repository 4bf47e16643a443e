/* A kernel that allocates far more than its budget, and gives up without a crash. */
#include <stdlib.h>
static char *volatile hoard;
#define ON_RUN(part)                                                                                                   \
    hoard = malloc((size_t)8 << 30);                                                                                   \
    if (hoard == NULL) {                                                                                               \
        return CK_NO_MEMORY;                                                                                           \
    }                                                                                                                  \
    free(hoard);
#include "plain_ssd_scan.h"
