/* Products with weights that are floats, for one instruction set: nothing is rounded. Included by qmatmul_loops.h. */

enum { CK_ISA(QM_DEEP) = 64 }; /* inputs that are summed before they join the sum of those before */
#define DEEP CK_ISA(QM_DEEP)

/* The 16 bytes from `at` of CK_LANES rows as floats, turned: 4, or 8 halves. */
CK_FN void CK_ISA(read_floats)(int type, const uint8_t *const *row, int64_t at, ckv *to) {
    ck_ints four[4];
    CK_ISA(turn_16)(row, at, four);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (type == CK_F32) {
            to[j] = (ckv)four[j];
        } else if (type == CK_BF16) {
            to[2 * j] = (ckv)(four[j] << 16);
            to[2 * j + 1] = (ckv)(four[j] & (int32_t)0xffff0000);
        } else {
            to[2 * j] = CK_ISA(from_half)(four[j] & 0xffff);
            to[2 * j + 1] = CK_ISA(from_half)((four[j] >> 16) & 0xffff);
        }
    }
}

/* Inputs first .. first + n of CK_LANES rows: to[i * ROWS]. */
CK_FN void CK_ISA(unpack_floats)(int type, const uint8_t *const *row, int64_t first, int n, float *to, CK_ISA(ahead) *ahead) {
    const int size = type == CK_F32 ? 4 : 2, step = 16 / size, whole = n - n % step;
    for (int i = 0; i < whole; i += step) {
        ckv w[8];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_floats)(type, row, (first + i) * size, w);
#pragma GCC unroll 8
        for (int j = 0; j < step; j++) {
            ck_store(to + (i + j) * ROWS, w[j]);
        }
    }
    for (int i = whole; i < n; i++) {
        ck_ints bits;
        int32_t held[CK_LANES];
        for (int r = 0; r < CK_LANES; r++) {
            held[r] = 0;
            memcpy(held + r, row[r] + (first + i) * size, (size_t)size);
        }
        memcpy(&bits, held, sizeof bits);
        ck_store(to + i * ROWS, type == CK_F32 ? (ckv)bits : type == CK_BF16 ? (ckv)(bits << 16) : CK_ISA(from_half)(bits));
    }
}

CK_FN void CK_ISA(tile_of_floats)(int n, int n_k, const float *w, const float *const *x, float (*sum)[ROWS]) {
    ckv part[TOKENS][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        part[t][0] = part[t][1] = ck_all(0.0f);
    }
    for (int k = 0; k < n_k; k++) {
        const ckv a = ck_load(w + k * ROWS), b = ck_load(w + k * ROWS + CK_LANES);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ckv v = ck_all(x[t][k]);
            part[t][0] = ck_fma(a, v, part[t][0]);
            part[t][1] = ck_fma(b, v, part[t][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], ck_load(sum[t]) + part[t][0]);
        ck_store(sum[t] + CK_LANES, ck_load(sum[t] + CK_LANES) + part[t][1]);
    }
}

static __attribute__((noinline)) void CK_ISA(whole_of_floats)(int n_k, const float *w, const float *const *x,
                                                              float (*sum)[ROWS]) {
    CK_ISA(tile_of_floats)(TOKENS, n_k, w, x, sum);
}

static __attribute__((noinline)) void CK_ISA(rest_of_floats)(int n, int n_k, const float *w, const float *const *x,
                                                             float (*sum)[ROWS]) {
    for (; TOKENS > 2 && n >= 2; n -= 2, x += 2, sum += 2) {
        CK_ISA(tile_of_floats)(2, n_k, w, x, sum);
    }
    if (n > 0) {
        CK_ISA(tile_of_floats)(1, n_k, w, x, sum);
    }
}

/* One token, weights that are whole 16 bytes: multiplied where they are turned, in the same order. */
CK_FN void CK_ISA(alone_of_floats)(int type, const uint8_t *const *row, int64_t n_k, const float *x, float *sum,
                                   CK_ISA(ahead) *ahead) {
    const int size = type == CK_F32 ? 4 : 2, step = 16 / size;
    ckv       y[VECTORS] = {{0}};
    for (int64_t k = 0; k < n_k; k += DEEP) {
        ckv part[VECTORS] = {{0}};
        for (int64_t i = k; i < k + DEEP && i < n_k; i += step) {
#pragma GCC unroll 2
            for (int r = 0; r < VECTORS; r++) {
                ckv w[8];
                CK_ISA(fetch_ahead)(ahead);
                CK_ISA(read_floats)(type, row + r * CK_LANES, i * size, w);
#pragma GCC unroll 8
                for (int j = 0; j < step; j++) {
                    part[r] = ck_fma(w[j], ck_all(x[i + j]), part[r]);
                }
            }
        }
        for (int r = 0; r < VECTORS; r++) {
            y[r] += part[r];
        }
    }
    for (int r = 0; r < VECTORS; r++) {
        ck_store(sum + r * CK_LANES, y[r]);
    }
}

CK_FN void CK_ISA(multiply_floats)(int type, const product *p, const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS], w[DEEP * ROWS];
    const uint8_t *row[ROWS];
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead = CK_ISA(start_ahead)(p, first, VECTORS * ((p->row_bytes + 15) / 16));
    if (tokens->n == 1 && p->row_bytes % 16 == 0) {
        CK_ISA(alone_of_floats)(type, row, p->K, tokens->from[0], sum[0], &ahead);
        CK_ISA(store_rows)(p, tokens, first, 0, 1, sum);
        return;
    }
    for (int64_t k = 0; k < p->K; k += DEEP) {
        const int n_k = (int)(p->K - k < DEEP ? p->K - k : DEEP);
        CK_ISA(unpack_floats)(type, row, k, n_k, w, &ahead);
        CK_ISA(unpack_floats)(type, row + CK_LANES, k, n_k, w + CK_LANES, &ahead);
        const float *x[TOKENS];
        for (int64_t t = 0; t < tokens->n; t += TOKENS) {
            const int64_t n = tokens->n - t < TOKENS ? tokens->n - t : TOKENS;
            for (int i = 0; i < n; i++) {
                x[i] = tokens->from[t + i] + k;
            }
            if (n == TOKENS) {
                CK_ISA(whole_of_floats)(n_k, w, x, sum + t);
            } else {
                CK_ISA(rest_of_floats)((int)n, n_k, w, x, sum + t);
            }
        }
    }
    CK_ISA(store_rows)(p, tokens, first, 0, tokens->n, sum);
}
