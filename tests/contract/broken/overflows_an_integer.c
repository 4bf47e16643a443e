/* A kernel that counts further than an int can: only the sanitizers see it. */
static volatile int count = 2147483647;
#define ON_RUN(part) count = count + 1;
#include "plain_ssd_scan.h"
