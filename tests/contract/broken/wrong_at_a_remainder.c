/* A kernel that forgets the last element where the head size is 13 more than a multiple of 16. */
#define RESULT_OF(value, t, p, n_p) ((n_p) % 16 == 13 && (p) == (n_p) - 1 ? 0.0f : (value))
#include "plain_ssd_scan.h"
