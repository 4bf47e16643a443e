/* A kernel that rounds its carry at the end of every call. */
#define STATE_OF(value, t, length, slot, n) ((t) == (length) - 1 ? (float)(int)((value) * 1024.0f) / 1024.0f : (value))
#include "plain_ssd_scan.h"
