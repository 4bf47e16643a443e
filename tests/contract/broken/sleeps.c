/* A kernel that waits for something that never happens. */
#include <unistd.h>
#define ON_RUN(part) pause();
#include "plain_ssd_scan.h"
