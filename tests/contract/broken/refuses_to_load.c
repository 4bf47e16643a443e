/* A kernel that says at loading that this processor is not enough. */
#define ON_ENTRY                                                                                                       \
    snprintf(err->text, err->text_capacity, "needs AVX-1024, which this processor lacks");                             \
    return NULL;
#include "plain_ssd_scan.h"
