/* A kernel that supports nothing. */
#define ON_SUPPORTS(call)                                                                                              \
    if (check_call(call, err) == CK_OK) {                                                                              \
        return CK_UNSUPPORTED;                                                                                         \
    }
#include "plain_ssd_scan.h"
