/* A kernel that gives other bits where a call has several sequences. */
#define RESULT_OF(value, t, p, n_p) (c->n_seq > 1 ? (value) * 1.000001f : (value))
#include "plain_ssd_scan.h"
