/* conifer_set.h: the loops of one instruction set. Included by conifer_simd.h, after the set's name and what it has. */
#include "conifer_vector.h"
#include CK_LOOPS
#undef CK_SET
#undef CK_LANES
#undef CK_REGISTERS
#undef CK_HAS_DOT8
