/* conifer_vector.h: what a vector of CK_LANES floats can do. Included by conifer_simd.h, once per instruction set. */

typedef float ckv __attribute__((vector_size(4 * CK_LANES)));
typedef int32_t ck_ints __attribute__((vector_size(4 * CK_LANES)));

CK_FN ckv ck_load(const float *p) {
    ckv v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

CK_FN void ck_store(float *p, ckv v) { __builtin_memcpy(p, &v, sizeof v); }

/* All ones in the first n lanes. */
CK_FN ck_ints CK_ISA(ck_first)(int64_t n) {
    ck_ints lane;
    for (int i = 0; i < CK_LANES; i++) {
        lane[i] = i;
    }
    return lane < (int32_t)(n < CK_LANES ? n : CK_LANES);
}

/* The first n < CK_LANES floats; the others are 0 and are not touched in memory. */
CK_FN ckv ck_load_part(const float *p, int64_t n) {
#if CK_LANES == 16
    return (ckv)_mm512_maskz_loadu_ps(n < 16 ? (__mmask16)((1u << (n > 0 ? n : 0)) - 1) : (__mmask16)0xffff, p);
#elif CK_LANES == 8
    return (ckv)_mm256_maskload_ps(p, (__m256i)CK_ISA(ck_first)(n));
#else
    float held[CK_LANES] = {0};
    for (int64_t i = 0; i < n && i < CK_LANES; i++) {
        held[i] = p[i];
    }
    return ck_load(held);
#endif
}

CK_FN void ck_store_part(float *p, ckv v, int64_t n) {
#if CK_LANES == 16
    _mm512_mask_storeu_ps(p, n < 16 ? (__mmask16)((1u << (n > 0 ? n : 0)) - 1) : (__mmask16)0xffff, (__m512)v);
#elif CK_LANES == 8
    _mm256_maskstore_ps(p, (__m256i)CK_ISA(ck_first)(n), (__m256)v);
#else
    float held[CK_LANES];
    ck_store(held, v);
    for (int64_t i = 0; i < n && i < CK_LANES; i++) {
        p[i] = held[i];
    }
#endif
}

CK_FN ckv ck_all(float x) { return x - (ckv){0}; } /* not x + 0: that is no identity for -0 and costs an addition */

/* a * b + c */
CK_FN ckv ck_fma(ckv a, ckv b, ckv c) {
#if CK_LANES == 16
    return (ckv)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif CK_LANES == 8
    return (ckv)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (ckv)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Where a is not a number the answer is a, in both. */
CK_FN ckv ck_max(ckv a, ckv b) {
    ck_ints less = a < b;
    return (ckv)((less & (ck_ints)b) | (~less & (ck_ints)a));
}

CK_FN ckv ck_min(ckv a, ckv b) {
    ck_ints more = a > b;
    return (ckv)((more & (ck_ints)b) | (~more & (ck_ints)a));
}

/* 2 to the n * p, for whole n in -127 .. 128; -127 gives 0 and 128 infinity, so subnormals are flushed. */
CK_FN ckv CK_ISA(ck_scale_by_power)(ckv p, ckv n) {
    ck_ints bits = (__builtin_convertvector(n, ck_ints) + 127) << 23;
    return p * (ckv)bits;
}

/* The nearest whole number, for |x| below 2^22: adding 1.5 * 2^23 pushes the fraction out of the mantissa. */
CK_FN ckv CK_ISA(ck_nearest)(ckv x) {
#if CK_LANES == 16
    return (ckv)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (x + 12582912.0f) - 12582912.0f;
#endif
}

/* x[i] = e to the x[i]. Several side by side, up to 8, because each step waits for the one before it. */
CK_FN void ck_exps(int n, ckv *x) {
    ckv whole[8], r[8], p[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = ck_min(ck_max(x[i], ck_all(-88.0f)), ck_all(88.7f));
        whole[i] = CK_ISA(ck_nearest)(x[i] * 1.44269504f);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) { /* ln 2 in two pieces, the first with zeros at its end so that n times it is exact. */
        r[i] = ck_fma(whole[i], ck_all(2.12194440e-4f), ck_fma(whole[i], ck_all(-0.693359375f), x[i]));
        p[i] = ck_all(1.0f / 5040);
    }
    /* The Taylor series, whose next term is below 2^-27 for |r| <= ln(2) / 2. */
    static const float term[7] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
#pragma GCC unroll 8
    for (int k = 0; k < 7; k++) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            p[i] = ck_fma(p[i], r[i], ck_all(term[k]));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = CK_ISA(ck_scale_by_power)(p[i], whole[i]);
    }
}

CK_FN ckv ck_exp(ckv x) {
    ck_exps(1, &x);
    return x;
}

/* f[i] = 2 to the f[i] for |f[i]| <= 1/2, n <= 8 of them side by side. */
CK_FN void CK_ISA(ck_exp2_fractions)(int n, ckv *f) {
    /* Least squares with weights towards the largest relative error, which is 2e-09 for |f| <= 1/2. */
    static const float term[7] = {1.53533585e-04f, 1.33988757e-03f, 9.61843738e-03f, 5.55033247e-02f,
                                  2.40226479e-01f, 6.93147203e-01f, 1.0f};
    ckv p[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        p[i] = ck_fma(ck_all(term[0]), f[i], ck_all(term[1]));
    }
#pragma GCC unroll 8
    for (int k = 2; k < 7; k++) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            p[i] = ck_fma(p[i], f[i], ck_all(term[k]));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        f[i] = p[i];
    }
}

CK_FN ckv CK_ISA(ck_exp2_fraction)(ckv f) {
    CK_ISA(ck_exp2_fractions)(1, &f);
    return f;
}

/* x[i] = 2 to the x[i], n <= 8 of them side by side. */
CK_FN void ck_exp2s(int n, ckv *x) {
    ckv whole[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
#if CK_LANES != 16
        x[i] = ck_min(ck_max(x[i], ck_all(-127.0f)), ck_all(128.0f));
#endif
        whole[i] = CK_ISA(ck_nearest)(x[i]);
        x[i] -= whole[i];
    }
    CK_ISA(ck_exp2_fractions)(n, x);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
#if CK_LANES == 16
        x[i] = (ckv)_mm512_scalef_ps((__m512)x[i], (__m512)whole[i]); /* right at both ends of the range by itself */
#else
        x[i] = CK_ISA(ck_scale_by_power)(x[i], whole[i]);
#endif
    }
}

/* 2 to the x. */
CK_FN ckv ck_exp2(ckv x) {
    ck_exp2s(1, &x);
    return x;
}

/* x[i] = log(1 + e^x[i]), n <= 8 of them side by side: max(x, 0) + log1p(e^-|x|), and log1p(e) = 2 atanh(e / (2 + e)) by its
 * series. */
CK_FN void ck_softplusses(int n, ckv *x) {
    static const float term[9] = {1.0f / 17, 1.0f / 15, 1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f};
    ckv s[8], z[8], p[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        s[i] = -(ckv)((ck_ints)x[i] & 0x7fffffff);
    }
    ck_exps(n, s);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        s[i] = s[i] / (s[i] + 2.0f); /* <= 1/3 */
        z[i] = s[i] * s[i];
        p[i] = ck_all(term[0]);
    }
#pragma GCC unroll 8
    for (int k = 1; k < 9; k++) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            p[i] = ck_fma(p[i], z[i], ck_all(term[k]));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = ck_max(x[i], ck_all(0.0f)) + 2.0f * s[i] * p[i];
    }
}

CK_FN ckv ck_softplus(ckv x) {
    ck_softplusses(1, &x);
    return x;
}

/* x[i] = x[i] * sigmoid(x[i]), n <= 8 of them side by side. */
CK_FN void ck_silus(int n, ckv *x) {
    ckv e[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        e[i] = -x[i];
    }
    ck_exps(n, e);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = x[i] / (e[i] + 1.0f);
    }
}

CK_FN ckv ck_silu(ckv x) {
    ck_silus(1, &x);
    return x;
}

CK_FN float ck_sum(ckv v) {
#if CK_LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#elif CK_LANES == 8
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    return (v[0] + v[1]) + (v[2] + v[3]);
#endif
}

#if CK_LANES == 16
#define CK_EVEN 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define CK_ODD 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#elif CK_LANES == 8
#define CK_EVEN 0, 8, 1, 9, 4, 12, 5, 13
#define CK_ODD 2, 10, 3, 11, 6, 14, 7, 15
#else
#define CK_EVEN 0, 4, 1, 5
#define CK_ODD 2, 6, 3, 7
#endif
#define CK_FOLD(a, b) (__builtin_shufflevector(a, b, CK_EVEN) + __builtin_shufflevector(a, b, CK_ODD))

/* The sums of CK_LANES vectors, that of rows[i] in lane i. Every lane adds in the same order. */
CK_FN ckv ck_sums(const ckv *rows) {
    ckv four[CK_LANES / 4]; /* in each quarter of a vector a part of the sums of rows 4i .. 4i + 3 */
#pragma GCC unroll 4
    for (int i = 0; i < CK_LANES / 4; i++) {
        const ckv even = CK_FOLD(rows[4 * i], rows[4 * i + 2]), odd = CK_FOLD(rows[4 * i + 1], rows[4 * i + 3]);
        four[i] = CK_FOLD(even, odd);
    }
#if CK_LANES == 16
#define CK_HALVES(a, b)                                                                                                \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +                           \
     __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    const ckv low = CK_HALVES(four[0], four[1]), high = CK_HALVES(four[2], four[3]);
#undef CK_HALVES
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif CK_LANES == 8
    return __builtin_shufflevector(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return four[0];
#endif
}
#undef CK_EVEN
#undef CK_ODD
#undef CK_FOLD

#if CK_LANES == 16
#define CK_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define CK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif CK_LANES == 8
#define CK_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define CK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define CK_LOW 0, 4, 1, 5
#define CK_HIGH 2, 6, 3, 7
#endif

/* n rows in registers, a power of two from 2 to 16: element c of row r goes to place n * c + r of all of them. log2(n) perfect
 * shuffles do it, and n = CK_LANES transposes a square. */
CK_FN void CK_ISA(ck_interleave)(int n, ckv *rows) {
    ckv next[16];
#pragma GCC unroll 4
    for (int step = 1; step < n; step *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < n / 2; i++) {
            next[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], CK_LOW);
            next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + n / 2], CK_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            rows[i] = next[i];
        }
    }
}
#undef CK_LOW
#undef CK_HIGH

/* to[c][r] = from[r][c] for r < n_row, c < n_column; strides in floats. What of a row of `to` lies between n_row and the
 * next multiple of CK_LANES is set to 0, if it is within to_stride. */
static __attribute__((unused)) void ck_transpose(const float *from, int64_t from_stride, int64_t n_row, int64_t n_column,
                                                 float *to, int64_t to_stride) {
    for (int64_t r = 0; r < n_row; r += CK_LANES) {
        const int64_t rows = n_row - r < CK_LANES ? n_row - r : CK_LANES;
        const int64_t width = to_stride - r < CK_LANES ? to_stride - r : CK_LANES;
        for (int64_t c = 0; c < n_column; c += CK_LANES) {
            const int64_t columns = n_column - c < CK_LANES ? n_column - c : CK_LANES;
            ckv square[CK_LANES];
            if (rows == CK_LANES && columns == CK_LANES) {
#pragma GCC unroll 16
                for (int i = 0; i < CK_LANES; i++) {
                    square[i] = ck_load(from + (r + i) * from_stride + c);
                }
                CK_ISA(ck_interleave)(CK_LANES, square);
#pragma GCC unroll 16
                for (int i = 0; i < CK_LANES; i++) {
                    ck_store(to + (c + i) * to_stride + r, square[i]);
                }
                continue;
            }
            for (int i = 0; i < CK_LANES; i++) {
                square[i] = i < rows ? ck_load_part(from + (r + i) * from_stride + c, columns) : ck_all(0.0f);
            }
            CK_ISA(ck_interleave)(CK_LANES, square);
            for (int64_t i = 0; i < columns; i++) {
                ck_store_part(to + (c + i) * to_stride + r, square[i], width);
            }
        }
    }
}

/* A tile of a small matrix product: n_row x n_vector accumulators that stay in registers. */
CK_FN void CK_ISA(ck_tile)(int n_row, int n_vector, int64_t n_k, const float *a, int64_t a_row, int64_t a_k, const float *x,
                           int64_t x_k, const float *keep, float *y, int64_t y_row) {
    ckv sum[6][4];
#pragma GCC unroll 6
    for (int i = 0; i < n_row; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            sum[i][j] = ck_all(0.0f);
        }
    }
    for (int64_t k = 0; k < n_k; k++) {
        ckv column[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            column[j] = ck_load(x + k * x_k + j * CK_LANES);
        }
#pragma GCC unroll 6
        for (int i = 0; i < n_row; i++) {
            const ckv factor = ck_all(a[i * a_row + k * a_k]);
#pragma GCC unroll 4
            for (int j = 0; j < n_vector; j++) {
                sum[i][j] = ck_fma(factor, column[j], sum[i][j]);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n_row; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            float *target = y + i * y_row + j * CK_LANES;
            ck_store(target, keep ? ck_fma(ck_all(keep[i]), ck_load(target), sum[i][j]) : sum[i][j]);
        }
    }
}

#define CK_TILE(rows, vectors)                                                                                         \
    CK_ISA(ck_tile)(rows, vectors, n_k, a + i * a_row, a_row, a_k, x + j, x_k, keep ? keep + i : NULL, y + i * y_row + j, y_row)
#define CK_TILES(vectors)                                                                                              \
    do {                                                                                                               \
        switch (n_row - i) {                                                                                           \
        case 1: CK_TILE(1, vectors); break;                                                                            \
        case 2: CK_TILE(2, vectors); break;                                                                            \
        case 3: CK_TILE(3, vectors); break;                                                                            \
        case 4: CK_TILE(4, vectors); break;                                                                            \
        case 5: CK_TILE(5, vectors); break;                                                                            \
        default: CK_TILE(6, vectors); break;                                                                           \
        }                                                                                                              \
    } while (0)

/* y[i][j] = keep[i] * y[i][j] + sum over k of a[i * a_row + k * a_k] * x[k * x_k + j]: i < n_row, j < n_column, k < n_k.
 *
 * n_column, and x and y behind it, are whole vectors. keep NULL: y is overwritten. A row of y has the same bits whatever the
 * other rows are. */
static __attribute__((unused)) void ck_product(int64_t n_row, int64_t n_column, int64_t n_k, const float *a, int64_t a_row,
                                               int64_t a_k, const float *x, int64_t x_k, const float *keep, float *y,
                                               int64_t y_row) {
    const int64_t wide = (CK_REGISTERS == 32 ? 4 : 2) * CK_LANES;
    for (int64_t j = 0; j < n_column;) {
        const int64_t left = n_column - j;
        for (int64_t i = 0; i < n_row; i += 6) {
#if CK_REGISTERS == 32
            if (left >= 4 * CK_LANES) {
                CK_TILES(4);
                continue;
            }
#endif
            if (left >= 2 * CK_LANES) {
                CK_TILES(2);
            } else {
                CK_TILES(1);
            }
        }
        j += left >= wide ? wide : left >= 2 * CK_LANES ? 2 * CK_LANES : CK_LANES;
    }
}
#undef CK_TILE
#undef CK_TILES
