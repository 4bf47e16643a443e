/* A kernel that writes its explanation past text_capacity. */
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        sprintf(err->text, __VA_ARGS__);                                                                               \
        return CK_BAD_SHAPE;                                                                                           \
    } while (0)
#include "plain_ssd_scan.h"
