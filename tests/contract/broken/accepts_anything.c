/* A kernel that never answers CK_BAD_SHAPE. */
#define ON_SUPPORTS(call)                                                                                              \
    (void)check_call, (void)call, (void)err;                                                                           \
    return CK_OK;
#include "plain_ssd_scan.h"
