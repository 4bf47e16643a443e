/* A kernel that counts its runs, and gives other bits every fifth time. */
static int n_run;
#define ON_RUN(part) n_run++;
#define RESULT_OF(value, t, p, n_p) (n_run % 5 == 4 ? (value) * 1.000001f : (value))
#include "plain_ssd_scan.h"
