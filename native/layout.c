/* Freezes the layout of every struct of the ABI: its size, and that nothing hides behind its last field. A field that is
 * added must land at the end, and its size in LAYOUT_IS below is then a deliberate change. Compiled with -Wpadded -Werror,
 * so that padding is spelled out as `reserved`. Valid C11 and C++11. */
#include "conifer_kernel.h"

#ifdef __cplusplus
#define LAYOUT_ASSERT static_assert
#else
#define LAYOUT_ASSERT _Static_assert
#endif

#define LAYOUT_IS(type, last, size)                                                            \
    LAYOUT_ASSERT(sizeof(type) == (size), #type " has changed its size");                      \
    LAYOUT_ASSERT(offsetof(type, last) + sizeof(((type *)0)->last) == (size), #type " has a tail")

LAYOUT_IS(ck_error, text, 16);
LAYOUT_IS(ck_ext, next, 24);
LAYOUT_IS(ck_tensor, data, 40);
LAYOUT_IS(ck_call, next, 96);
LAYOUT_IS(ck_need, reserved, 32);
LAYOUT_IS(ck_part, packed, 40);
LAYOUT_IS(ck_kernel, run, 56);
LAYOUT_IS(ck_plugin, kernel, 40);
LAYOUT_IS(ck_host, extension, 16);
LAYOUT_ASSERT(sizeof(void *) == 8, "64-bit hosts only");
