/* A kernel that has no run function. */
#define RUN_OF_KERNEL NULL
#define ON_ENTRY (void)run;
#include "plain_ssd_scan.h"
