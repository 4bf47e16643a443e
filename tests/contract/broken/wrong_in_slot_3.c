/* A kernel that is inexact in one slot only. */
#define STATE_OF(value, t, length, slot, n) ((slot) == 3 ? (value) * 1.001f : (value))
#include "plain_ssd_scan.h"
