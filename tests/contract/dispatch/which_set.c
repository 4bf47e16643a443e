/* Prints the instruction set that CK_DISPATCH takes here. -DCK_DOT8=1 asks for the sets with products of bytes. */
#include <stdio.h>
#define CK_LOOPS "set_loops.h"
#include "conifer_simd.h"

int main(void) {
    CK_DISPATCH(say);
    return 0;
}
