/* A kernel that promises the same bits for any split, and rounds otherwise at every eighth token of a call. */
#define ON_PLAN(call) need->flags |= CK_SPLIT_EXACT;
#define STATE_OF(value, t, length, slot, n) ((t) % 8 == 7 ? (value) * 1.0000002f : (value))
#include "plain_ssd_scan.h"
