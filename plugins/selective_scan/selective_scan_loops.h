/* The loops of conifer.selective_scan/1, for one instruction set. Included by selective_scan.c through conifer_simd.h.
 *
 * Vectors run over channels: a block's carry is turned round once per call, stays in registers from token to token, and y
 * needs no sum across a vector. */

/* n tokens of CK_LANES channels from c on; only `live` of them exist. h: [N][CK_LANES], advanced. */
CK_FN void CK_ISA(scan_block)(const scan_call *s, int64_t N, int64_t c, int64_t live, int64_t start, int64_t n, ckv *h) {
    const int whole = live == CK_LANES;
    const float *A = s->a + c / BLOCK * BLOCK * s->N + c % BLOCK; /* packed: [M / BLOCK][N][BLOCK], times log2(e) */
    const ckv bias = !s->dt_bias ? ck_all(0.0f) : whole ? ck_load(s->dt_bias + c) : ck_load_part(s->dt_bias + c, live);
    const ckv d = !s->d ? ck_all(0.0f) : whole ? ck_load(s->d + c) : ck_load_part(s->d + c, live);
    for (int64_t t = start; t < start + n; t++) {
        const float *B = ck_at(s->B, t), *C = ck_at(s->C, t), *from = ck_at(s->x, t) + c, *step = ck_at(s->dt, t) + c;
        const ckv x = whole ? ck_load(from) : ck_load_part(from, live);
        ckv delta = (whole ? ck_load(step) : ck_load_part(step, live)) + bias;
        if (s->softplus) {
            delta = ck_softplus(delta);
        }
        delta = ck_min(ck_max(delta, ck_all(s->dt_min)), ck_all(s->dt_max));
        const ckv input = delta * x;
        ckv y = d * x, odd = ck_all(0.0f);
#pragma GCC unroll 16
        for (int64_t i = 0; i < N; i++) {
            h[i] = ck_fma(ck_exp2(delta * ck_load(A + i * BLOCK)), h[i], input * ck_all(B[i]));
            if (i % 2) {
                odd = ck_fma(ck_all(C[i]), h[i], odd);
            } else {
                y = ck_fma(ck_all(C[i]), h[i], y);
            }
        }
        y += odd;
        if (s->z) {
            const float *z = ck_at(s->z, t) + c;
            y *= ck_silu(whole ? ck_load(z) : ck_load_part(z, live));
        }
        float *to = ck_at(s->y, t) + c;
        if (whole) {
            ck_store(to, y);
        } else {
            ck_store_part(to, y, live);
        }
    }
}

/* Channels first .. end of n tokens; carry: [M][N] in the pool, turned: room for [N][CK_LANES]. */
static void CK_ISA(scan_span)(const scan_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry,
                              float *turned) {
    for (int64_t c = first; c < end; c += CK_LANES) {
        const int64_t live = end - c < CK_LANES ? end - c : CK_LANES;
        ck_transpose(carry + c * s->N, s->N, live, s->N, turned, CK_LANES);
        if (s->N == 16) { /* the size of every published model: known here, the carry stays in registers */
            ckv h[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                h[i] = ck_load(turned + i * CK_LANES);
            }
            CK_ISA(scan_block)(s, 16, c, live, start, n, h);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                ck_store(turned + i * CK_LANES, h[i]);
            }
        } else {
            CK_ISA(scan_block)(s, s->N, c, live, start, n, (ckv *)turned);
        }
        ck_transpose(turned, CK_LANES, s->N, live, carry + c * s->N, s->N);
    }
}

/* One sequence of n tokens, SPAN at a time: a block reads one line of every row, and rows lie whole pages apart. */
static void CK_ISA(scan_sequence)(const scan_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry,
                                  float *turned) {
    for (int64_t at = 0; at < n; at += SPAN) {
        CK_ISA(scan_span)(s, first, end, start + at, n - at < SPAN ? n - at : SPAN, carry, turned);
    }
}
