/* A kernel that promises the same bits for any split, and rounds otherwise past 100 tokens of a call. */
#define ON_PLAN(call) need->flags |= CK_SPLIT_EXACT;
#define RESULT_OF(value, t, p, n_p) ((t) > 100 ? (value) * 1.0000002f : (value))
#include "plain_ssd_scan.h"
