/* A kernel that loses a little of its carry after 1000 tokens. */
#define STATE_OF(value, t, length, slot, n) ((t) > 1000 ? (value) * 0.999f : (value))
#include "plain_ssd_scan.h"
