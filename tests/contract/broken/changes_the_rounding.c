/* A kernel that leaves the processor rounding towards zero. */
#include <fenv.h>
#define AFTER_PART(part, first, end) fesetround(FE_TOWARDZERO);
#include "plain_ssd_scan.h"
