/* A kernel that has an exp that ends at -30. */
#define DECAY(x) ((x) < -30.0f ? 0.01f : expf(x))
#include "plain_ssd_scan.h"
