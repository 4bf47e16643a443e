/* The loops of conifer.ssd_scan/1, for one instruction set. Included by ssd_scan.c through conifer_simd.h.
 *
 * A row of the carry is advanced token by token, as it lies in the pool, and every row sums its N products in the same order:
 * the bits of a token do not depend on how many tokens the call has. A block of CK_LANES rows goes through a whole chunk of
 * tokens while it is in the nearest cache; chunks only decide what is in the cache. */

/* delta of one head for n tokens (bias, softplus, clamp), and the decays exp(delta A). */
static void CK_ISA(step_sizes)(const scan_call *s, int64_t h, int64_t first, int64_t n, scan_steps *steps) {
    const float bias = s->dt_bias ? s->dt_bias[h] : 0.0f;
    for (int64_t t = 0; t < n; t += CK_LANES) {
        float held[CK_LANES] = {0};
        for (int64_t i = 0; i < CK_LANES && t + i < n; i++) {
            held[i] = ck_at(s->dt, first + t + i)[h] + bias;
        }
        ckv v = ck_load(held);
        if (s->softplus) {
            v = ck_softplus(v);
        }
        v = ck_min(ck_max(v, ck_all(s->dt_min)), ck_all(s->dt_max));
        ck_store(steps->delta + t, v);
        ck_store(steps->decay + t, ck_exp(v * ck_all(s->a[h])));
    }
}

/* One token of ROWS or 1 rows of the carry: advanced, and its product with C in one vector of partial sums a row. */
CK_FN void CK_ISA(advance_rows)(int n_row, int64_t N, ckv decay, const float *weight, const float *B, const float *C, float *carry,
                                ckv *sum) {
    const int64_t whole = N - N % CK_LANES;
    ckv w[ROWS], y[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++) {
        w[r] = ck_all(weight[r]);
        y[r] = ck_all(0.0f);
    }
    for (int64_t i = 0; i < whole; i += CK_LANES) {
        const ckv b = ck_load(B + i), c = ck_load(C + i);
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            const ckv state = ck_fma(w[r], b, decay * ck_load(carry + r * N + i));
            ck_store(carry + r * N + i, state);
            y[r] = ck_fma(c, state, y[r]);
        }
    }
    if (whole < N) {
        const ckv b = ck_load_part(B + whole, N - whole), c = ck_load_part(C + whole, N - whole);
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            const ckv state = ck_fma(w[r], b, decay * ck_load_part(carry + r * N + whole, N - whole));
            ck_store_part(carry + r * N + whole, state, N - whole);
            y[r] = ck_fma(c, state, y[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++) {
        sum[r] = y[r];
    }
}

/* n tokens of one head, first the first of them, for the `live` <= CK_LANES rows from p on. B and C: those of the first token. */
CK_FN void CK_ISA(scan_rows)(const scan_call *s, int64_t h, int64_t first, int64_t n, int64_t p, int64_t live,
                             const scan_steps *steps, const float *B, const float *C, float *carry) {
    const int64_t b_row = s->B->stride_bytes[0] / (int64_t)sizeof(float), c_row = s->C->stride_bytes[0] / (int64_t)sizeof(float);
    const ckv d = ck_all(s->d ? s->d[h] : 0.0f);
    ckv sum[CK_LANES] = {{0}};
    for (int64_t t = 0; t < n; t++, B += b_row, C += c_row) {
        const float *from = ck_at2(s->x, first + t, h) + p;
        const ckv x = live == CK_LANES ? ck_load(from) : ck_load_part(from, live), decay = ck_all(steps->decay[t]);
        float weight[CK_LANES];
        ck_store(weight, ck_all(steps->delta[t]) * x);
        if (live == CK_LANES) {
            for (int r = 0; r < CK_LANES; r += ROWS) {
                CK_ISA(advance_rows)(ROWS, s->N, decay, weight + r, B, C, carry + r * s->N, sum + r);
            }
        } else {
            for (int64_t r = 0; r < live; r++) {
                CK_ISA(advance_rows)(1, s->N, decay, weight + r, B, C, carry + r * s->N, sum + r);
            }
        }
        ckv y = ck_fma(d, x, ck_sums(sum));
        if (s->z) {
            const float *z = ck_at2(s->z, first + t, h) + p;
            y *= ck_silu(live == CK_LANES ? ck_load(z) : ck_load_part(z, live));
        }
        float *to = ck_at2(s->y, first + t, h) + p;
        if (live == CK_LANES) {
            ck_store(to, y);
        } else {
            ck_store_part(to, y, live);
        }
    }
}

/* Heads first .. end of one sequence of n tokens. */
static void CK_ISA(scan_sequence)(const scan_call *s, int64_t head, int64_t end, int64_t start, int64_t n, float *pool) {
    scan_steps steps;
    for (int64_t h = head; h < end; h++) {
        const int64_t g = h / (s->H / s->G);
        for (int64_t at = start; at < start + n; at += CHUNK) {
            const int64_t tokens = start + n - at < CHUNK ? start + n - at : CHUNK;
            const float *B = ck_at2(s->B, at, g), *C = ck_at2(s->C, at, g);
            CK_ISA(step_sizes)(s, h, at, tokens, &steps);
            for (int64_t p = 0; p < s->P; p += CK_LANES) {
                float *carry = pool + (h * s->P + p) * s->N;
                if (n == 1) { /* each carry is read once, and its rows lie too near each other for the processor to foresee it */
                    ck_fetch(carry + CK_LANES * s->N, CK_LANES * s->N);
                }
                CK_ISA(scan_rows)(s, h, at, tokens, p, s->P - p < CK_LANES ? s->P - p : CK_LANES, &steps, B, C, carry);
            }
        }
    }
}
