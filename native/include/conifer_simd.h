/* conifer_simd.h: each vector loop written once, compiled for every instruction set, chosen at run time.
 *
 * A kernel puts its loops into a file of their own and includes this header once, after naming it:
 *
 *     #define CK_LOOPS "my_scan_loops.h"
 *     #include "conifer_simd.h"
 *     ...
 *     CK_DISPATCH(scan, part);          calls the scan of the best instruction set that this processor has
 *
 * In the loops file every function is `CK_FN` or `static`, and has its name in CK_ISA(): CK_ISA(scan) becomes scan_avx512,
 * scan_avx2 or scan_base. CK_LANES is the number of floats of a vector there (16, 8, 4); conifer_vector.h lists what can
 * be done with one. The base set is what the compiler targets anyway: SSE2 on x86-64, NEON on arm64.
 *
 * Before the include, `#define CK_DOT8 1` asks for instructions that add products of bytes, four to a lane, in 32 bits: VNNI and
 * sdot. The avx512 set is then taken only with them, and loops are compiled for two sets more: avxvnni, which otherwise runs the
 * loops of avx2, and dotprod, which otherwise runs those of neon. CK_HAS_DOT8 is 1 in loops that may use them.
 *
 * -DCK_EMULATE_AVX512 compiles the AVX-512 loops alone, for whatever processor the compiler targets: a test that puts an
 * <immintrin.h> of portable C before the compiler's runs them anywhere.
 *
 * CONIFER_ISA = avx512 | avxvnni | avx2 | scalar | dotprod | neon forces a set; in place of one that the processor lacks, the next
 * lower one is taken. */
#ifndef CONIFER_SIMD_H
#define CONIFER_SIMD_H
#ifndef CK_LOOPS
#error "define CK_LOOPS as the file with the vector loops before including conifer_simd.h"
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Ask for n floats that will soon be changed; they may lie past the end of anything. */
static inline __attribute__((unused)) void ck_fetch(const float *p, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __builtin_prefetch((const char *)p + 4 * i, 1);
    }
}

#define CK_JOIN_(a, b) a##_##b
#define CK_JOIN(a, b) CK_JOIN_(a, b)
#define CK_ISA(name) CK_JOIN(name, CK_SET)
#define CK_FN static inline __attribute__((always_inline, unused))

/* The vocabulary of conifer_vector.h: each word means the current instruction set's. */
#define ckv CK_ISA(ckv)
#define ck_ints CK_ISA(ck_ints)
#define ck_load CK_ISA(ck_load)
#define ck_store CK_ISA(ck_store)
#define ck_load_part CK_ISA(ck_load_part)
#define ck_store_part CK_ISA(ck_store_part)
#define ck_all CK_ISA(ck_all)
#define ck_fma CK_ISA(ck_fma)
#define ck_max CK_ISA(ck_max)
#define ck_min CK_ISA(ck_min)
#define ck_exp CK_ISA(ck_exp)
#define ck_exps CK_ISA(ck_exps)
#define ck_exp2 CK_ISA(ck_exp2)
#define ck_exp2s CK_ISA(ck_exp2s)
#define ck_softplus CK_ISA(ck_softplus)
#define ck_softplusses CK_ISA(ck_softplusses)
#define ck_silu CK_ISA(ck_silu)
#define ck_silus CK_ISA(ck_silus)
#define ck_sum CK_ISA(ck_sum)
#define ck_sums CK_ISA(ck_sums)
#define ck_transpose CK_ISA(ck_transpose)
#define ck_product CK_ISA(ck_product)

#ifndef CK_DOT8
#define CK_DOT8 0
#endif
/* Sets that CK_DOT8 adds, where the compiler knows their instructions. */
#if defined(__clang__)
#define CK_COMPILER_SINCE(gcc, clang) (__clang_major__ >= (clang))
#else
#define CK_COMPILER_SINCE(gcc, clang) (__GNUC__ >= (gcc))
#endif
#if CK_DOT8 && defined(__x86_64__) && CK_COMPILER_SINCE(11, 12)
#define CK_AVXVNNI
#elif CK_DOT8 && defined(__aarch64__) && CK_COMPILER_SINCE(8, 16)
#define CK_DOTPROD
#endif

/* What stands between the two is compiled for more than the compiler targets anyway. */
#define CK_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define CK_TARGET(options) CK_PRAGMA(clang attribute push(__attribute__((target(options))), apply_to = function))
#define CK_END_TARGET CK_PRAGMA(clang attribute pop)
#else
#define CK_TARGET(options) CK_PRAGMA(GCC push_options) CK_PRAGMA(GCC target(options))
#define CK_END_TARGET CK_PRAGMA(GCC pop_options)
#endif

#if defined(CK_EMULATE_AVX512)
#include <immintrin.h>
#define CK_SET avx512
#define CK_LANES 16
#define CK_REGISTERS 32
#define CK_HAS_DOT8 CK_DOT8
#include "conifer_set.h"
#else

#if defined(__x86_64__)
#include <immintrin.h>
#define CK_SET avx512
#define CK_LANES 16
#define CK_REGISTERS 32
#define CK_HAS_DOT8 CK_DOT8
#if CK_DOT8
CK_TARGET("avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")
#else
CK_TARGET("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#endif
#if !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif
#include "conifer_set.h"
CK_END_TARGET

#define CK_SET avx2
#define CK_LANES 8
#define CK_REGISTERS 16
#define CK_HAS_DOT8 0
CK_TARGET("avx2,fma,f16c")
#include "conifer_set.h"
CK_END_TARGET
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(CK_AVXVNNI)
#define CK_SET avxvnni
#define CK_LANES 8
#define CK_REGISTERS 16
#define CK_HAS_DOT8 1
CK_TARGET("avx2,fma,f16c,avxvnni")
#include "conifer_set.h"
CK_END_TARGET
#elif defined(CK_DOTPROD)
#define CK_SET dotprod
#define CK_LANES 4
#define CK_REGISTERS 32
#define CK_HAS_DOT8 1
#if defined(__clang__)
CK_TARGET("dotprod")
#else
CK_TARGET("arch=armv8.2-a+dotprod")
#endif
#include "conifer_set.h"
CK_END_TARGET
#endif

#define CK_SET base
#define CK_LANES 4
#if defined(__aarch64__)
#define CK_REGISTERS 32
#else
#define CK_REGISTERS 16
#endif
#define CK_HAS_DOT8 0
#include "conifer_set.h"

#endif /* CK_EMULATE_AVX512 */

enum { CK_SET_BASE, CK_SET_DOTPROD, CK_SET_AVX2, CK_SET_AVXVNNI, CK_SET_AVX512 };

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows these names. */
static inline int ck_has_f16c(void) {
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

static inline int ck_has_avxvnni(void) {
    unsigned a = 0, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4) % 2 == 1;
}
#endif

/* [any] Do this processor and its system have a set? */
static inline int ck_has_set(int set) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && ck_has_f16c();
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    switch (set) {
    case CK_SET_AVX512: return avx512 && (!CK_DOT8 || __builtin_cpu_supports("avx512vnni"));
    case CK_SET_AVXVNNI: return avx2 && ck_has_avxvnni();
    case CK_SET_AVX2: return avx2;
    default: break;
    }
#elif defined(__aarch64__) && defined(__linux__)
    if (set == CK_SET_DOTPROD) {
        return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    }
#elif defined(__aarch64__) && defined(__APPLE__)
    if (set == CK_SET_DOTPROD) {
        return 1; /* all of theirs have it */
    }
#endif
    return set == CK_SET_BASE;
}

/* [any] The best set that there is here, or what CONIFER_ISA asks for below it. */
static inline int ck_instruction_set(void) {
    static int known = -1; /* every thread would write the same value */
    if (known < 0) {
        const char *wish = getenv("CONIFER_ISA");
        int         best = CK_SET_AVX512;
        if (wish != NULL && wish[0] != '\0') {
            best = !strcmp(wish, "avx512")    ? CK_SET_AVX512
                   : !strcmp(wish, "avxvnni") ? CK_SET_AVXVNNI
                   : !strcmp(wish, "avx2")    ? CK_SET_AVX2
                   : !strcmp(wish, "dotprod") ? CK_SET_DOTPROD
                                              : CK_SET_BASE;
        }
        while (!ck_has_set(best)) {
            best--;
        }
        known = best;
    }
    return known;
}

/* Numbers below 1.2e-38 count as 0 inside the loops, and the thread's own rule stands again behind them: a carry that fades
 * away passes through such numbers, and each product with one costs a hundred others. */
static inline __attribute__((unused)) uint64_t ck_flush_to_zero(void) {
#if defined(__x86_64__)
    const uint32_t before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush results, and take operands as 0 */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t)1 << 24));
    return before;
#else
    return 0;
#endif
}

static inline __attribute__((unused)) void ck_end_flush_to_zero(uint64_t before) {
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

#if defined(CK_AVXVNNI)
#define CK_AVXVNNI_LOOPS(name, ...) name##_avxvnni(__VA_ARGS__); break;
#else
#define CK_AVXVNNI_LOOPS(name, ...)
#endif

#if defined(CK_EMULATE_AVX512)
#define CK_CHOOSE(name, ...) name##_avx512(__VA_ARGS__);
#elif defined(__x86_64__)
#define CK_CHOOSE(name, ...)                                                                                           \
    switch (ck_instruction_set()) {                                                                                    \
    case CK_SET_AVX512: name##_avx512(__VA_ARGS__); break;                                                             \
    case CK_SET_AVXVNNI: CK_AVXVNNI_LOOPS(name, __VA_ARGS__) /* those of avx2 otherwise */                             \
    case CK_SET_AVX2: name##_avx2(__VA_ARGS__); break;                                                                 \
    default: name##_base(__VA_ARGS__); break;                                                                          \
    }
#elif defined(CK_DOTPROD)
#define CK_CHOOSE(name, ...)                                                                                           \
    switch (ck_instruction_set()) {                                                                                    \
    case CK_SET_DOTPROD: name##_dotprod(__VA_ARGS__); break;                                                           \
    default: name##_base(__VA_ARGS__); break;                                                                          \
    }
#else
#define CK_CHOOSE(name, ...) name##_base(__VA_ARGS__);
#endif

#define CK_DISPATCH(name, ...)                                                                                         \
    do {                                                                                                               \
        const uint64_t ck_before = ck_flush_to_zero();                                                                 \
        CK_CHOOSE(name, __VA_ARGS__)                                                                                   \
        ck_end_flush_to_zero(ck_before);                                                                               \
    } while (0)
#endif
