/* A kernel that does not write the rows past the last sequence. */
#define ROWS_OF_PADDING 0
#include "plain_ssd_scan.h"
