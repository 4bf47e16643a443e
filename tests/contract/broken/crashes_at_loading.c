/* A kernel that crashes in its entry function. */
#define ON_ENTRY                                                                                                       \
    volatile uintptr_t nowhere = 4096;                                                                                 \
    *(volatile int *)nowhere = 1;
#include "plain_ssd_scan.h"
