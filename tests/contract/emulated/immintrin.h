/* Stands in for the compiler's <immintrin.h>: the AVX-512 intrinsics of the vector loops in portable C, from SIMDe
 * (https://github.com/simd-everywhere/simde), so that these loops can be run on any processor. Vectors themselves are the
 * compiler's, which splits them. What SIMDe 0.7.4 lacks is below. */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <math.h>
#include <string.h>

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

/* float16 to float, exact, subnormal numbers included. */
static inline __attribute__((unused)) __m512 emulated_cvtph_ps(__m256i v) {
    uint16_t bits[16];
    float held[16];
    memcpy(bits, &v, sizeof bits);
    for (int i = 0; i < 16; i++) {
        const int exponent = bits[i] >> 10 & 31, fraction = bits[i] & 1023;
        const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                                          : ldexpf((float)(exponent ? fraction | 1024 : fraction), (exponent ? exponent : 1) - 25);
        held[i] = bits[i] & 0x8000 ? -size : size;
    }
    return _mm512_loadu_ps(held);
}

static inline __attribute__((unused)) __m256i emulated_cvtepi32_epi16(__m512i v) {
    int32_t from[16];
    int16_t to[16];
    __m256i made;
    memcpy(from, &v, sizeof from);
    for (int i = 0; i < 16; i++) {
        to[i] = (int16_t)from[i];
    }
    memcpy(&made, to, sizeof made);
    return made;
}

static inline __attribute__((unused)) __m128i emulated_cvtepi32_epi8(__m512i v) {
    int32_t from[16];
    int8_t  to[16];
    __m128i made;
    memcpy(from, &v, sizeof from);
    for (int i = 0; i < 16; i++) {
        to[i] = (int8_t)from[i];
    }
    memcpy(&made, to, sizeof made);
    return made;
}

static inline __attribute__((unused)) int32_t emulated_reduce_add_epi32(__m512i v) {
    int32_t held[16], sum = 0;
    memcpy(held, &v, sizeof held);
    for (int i = 0; i < 16; i++) {
        sum += held[i];
    }
    return sum;
}

static inline __attribute__((unused)) float emulated_reduce_max_ps(__m512 v) {
    float held[16];
    _mm512_storeu_ps(held, v);
    for (int i = 1; i < 16; i++) {
        held[0] = held[i] > held[0] ? held[i] : held[0];
    }
    return held[0];
}

#ifndef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8
#endif
#ifndef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 emulated_reduce_add_epi32
#endif
#ifndef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps
#endif
#ifndef _mm512_cvtph_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#endif
#ifndef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16
#endif
#undef _mm512_madd_epi16 /* SIMDe gives it the arguments of its masked form */
#define _mm512_madd_epi16 simde_mm512_madd_epi16
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
