/* A kernel that looks one element past a table of its own: only the sanitizers see it. */
static float table[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
static const float *volatile start = table;
static volatile float sink;
#define ON_RUN(part) sink = start[9];
#include "plain_ssd_scan.h"
