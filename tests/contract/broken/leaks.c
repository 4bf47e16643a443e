/* A kernel that forgets to free what it takes in run. */
#include <stdlib.h>
static void *volatile forgotten;
#define ON_RUN(part) forgotten = malloc(1000);
#include "plain_ssd_scan.h"
