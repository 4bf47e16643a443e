/* A kernel that exports nothing that a host looks for. */
#include "conifer_kernel.h"

CK_EXPORT int some_other_symbol(void);
CK_EXPORT int some_other_symbol(void) { return 1; }
