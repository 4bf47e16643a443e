/* A kernel that was built for a kernel ABI that does not exist yet. */
#define ABI_ENTRY conifer_kernel_entry_v2
#include "plain_ssd_scan.h"
