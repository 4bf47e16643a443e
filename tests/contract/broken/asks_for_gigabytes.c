/* A kernel that plans more scratch than any machine has. */
#define SCRATCH_BYTES ((uint64_t)1 << 42)
#include "plain_ssd_scan.h"
