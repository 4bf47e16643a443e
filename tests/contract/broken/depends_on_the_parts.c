/* A kernel that gives other bits where the work is shared by more than two. */
#define RESULT_OF(value, t, p, n_p) (part->n_part > 2 ? (value) * 1.000001f : (value))
#include "plain_ssd_scan.h"
