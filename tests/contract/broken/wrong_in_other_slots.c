/* A kernel that always uses the first row of the pool. */
#define SLOT_OF(c, s) ((void)(c), 0)
#include "plain_ssd_scan.h"
