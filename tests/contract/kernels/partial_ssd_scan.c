/* A kernel that only knows calls without a gate. */
#define ON_SUPPORTS(call)                                                                                              \
    if ((call)->n_input > Z && (call)->input[Z] != NULL && check_call(call, err) == CK_OK) {                           \
        return CK_UNSUPPORTED;                                                                                         \
    }
#include "plain_ssd_scan.h"
