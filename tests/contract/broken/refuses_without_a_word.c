/* A kernel that answers CK_BAD_SHAPE without saying why. */
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        snprintf(err->text, 0, __VA_ARGS__);                                                                           \
        return CK_BAD_SHAPE;                                                                                           \
    } while (0)
#include "plain_ssd_scan.h"
