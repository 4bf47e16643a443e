/* A kernel that takes every tensor for dense. */
#define STRIDE_OF_ROWS(t) ((t)->stride_bytes[1] * ((t)->rank > 1 ? (t)->dim[1] : 1))
#include "plain_ssd_scan.h"
