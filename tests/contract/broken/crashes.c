/* A kernel that writes to an address that is not its own. */
#define ON_RUN(part)                                                                                                   \
    volatile uintptr_t nowhere = 4096;                                                                                 \
    *(volatile int *)nowhere = 1;
#include "plain_ssd_scan.h"
