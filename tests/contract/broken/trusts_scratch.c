/* A kernel that takes fresh scratch for zeros. */
#define SCRATCH_BYTES 64
#define RESULT_OF(value, t, p, n_p) ((value) + ((const float *)part->scratch)[3])
#include "plain_ssd_scan.h"
