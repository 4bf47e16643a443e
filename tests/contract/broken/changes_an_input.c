/* A kernel that adds the bias to dt in place. */
#define AFTER_PART(part, first, end)                                                                                   \
    if (T > 0 && end > first) {                                                                                        \
        ((float *)c->input[DT]->data)[first] += 1.0f;                                                                  \
    }
#include "plain_ssd_scan.h"
