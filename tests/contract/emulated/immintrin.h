/* Stands in for the compiler's <immintrin.h>: the AVX-512 intrinsics of the vector loops in portable C, from SIMDe
 * (https://github.com/simd-everywhere/simde), so that these loops can be run on any processor. Vectors themselves are the
 * compiler's, which splits them. What SIMDe 0.7.4 lacks is below. */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

typedef simde__mmask16 __mmask16;
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif
#ifndef _MM_FROUND_TO_NEAREST_INT
#define _MM_FROUND_TO_NEAREST_INT SIMDE_MM_FROUND_TO_NEAREST_INT
#endif

static inline __attribute__((unused)) __m512 emulated_maskz_loadu_ps(__mmask16 mask, const float *from) {
    float held[16];
    for (int i = 0; i < 16; i++) {
        held[i] = mask >> i & 1 ? from[i] : 0.0f;
    }
    return _mm512_loadu_ps(held);
}

static inline __attribute__((unused)) void emulated_mask_storeu_ps(float *to, __mmask16 mask, __m512 v) {
    float held[16];
    _mm512_storeu_ps(held, v);
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            to[i] = held[i];
        }
    }
}

/* As the compiler's: halves are added to each other, four times. */
static inline __attribute__((unused)) float emulated_reduce_add_ps(__m512 v) {
    float held[16];
    _mm512_storeu_ps(held, v);
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            held[i] += held[i + half];
        }
    }
    return held[0];
}

#ifndef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#endif
#ifndef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#endif
#ifndef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#endif
#endif
