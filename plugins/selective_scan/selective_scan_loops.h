/* The loops of conifer.selective_scan/1, for one instruction set. Included by selective_scan.c through conifer_simd.h.
 *
 * Vectors run over channels: a block's carry is turned round once per span of tokens, stays in registers from token to token,
 * and y needs no sum across a vector. What has long chains of steps, softplus and the powers of two, is done for several vectors
 * side by side. */

CK_FN ckv CK_ISA(load)(const float *p, int64_t n) { return n >= CK_LANES ? ck_load(p) : ck_load_part(p, n); }

/* delta of n tokens for the blocks from channel c to end: [block][token]. */
CK_FN void CK_ISA(step_sizes)(const scan_call *s, int64_t c, int64_t end, int64_t start, int64_t n, ckv *delta) {
    int64_t count = 0;
    for (; c < end; c += CK_LANES) {
        const int64_t live = end - c;
        const ckv bias = s->dt_bias ? CK_ISA(load)(s->dt_bias + c, live) : ck_all(0.0f);
        for (int64_t t = start; t < start + n; t++) {
            const float *dt = ck_at(s->dt, t) + c;
            ck_fetch(dt + CK_LANES, 1); /* rows lie whole pages apart: the processor does not foresee what comes next */
            delta[count++] = CK_ISA(load)(dt, live) + bias;
        }
    }
    for (int64_t i = count; i % ABREAST; i++) {
        delta[i] = ck_all(0.0f);
    }
    for (int64_t i = 0; i < count; i += ABREAST) {
        if (s->softplus) {
            ck_softplusses(ABREAST, delta + i);
        }
#pragma GCC unroll 8
        for (int64_t j = i; j < i + ABREAST; j++) {
            delta[j] = ck_min(ck_max(delta[j], ck_all(s->dt_min)), ck_all(s->dt_max));
        }
    }
}

/* n tokens of CK_LANES channels from c on; only `live` of them exist. h: [N][CK_LANES], advanced. */
CK_FN void CK_ISA(scan_block)(const scan_call *s, int64_t N, int64_t c, int64_t live, int64_t start, int64_t n, const ckv *delta,
                              ckv *h) {
    const float *A = s->a + c / BLOCK * BLOCK * s->N + c % BLOCK; /* packed: [M / BLOCK][N][BLOCK], times log2(e) */
    const ckv d = s->d ? CK_ISA(load)(s->d + c, live) : ck_all(0.0f);
    for (int64_t t = 0; t < n; t++) {
        const float *B = ck_at(s->B, start + t), *C = ck_at(s->C, start + t), *from = ck_at(s->x, start + t) + c;
        const ckv x = CK_ISA(load)(from, live), input = delta[t] * x;
        float *to = ck_at(s->y, start + t) + c;
        ckv y = d * x, odd = ck_all(0.0f);
        ck_fetch(from + CK_LANES, 1);
        ck_fetch(to + CK_LANES, 1);
#pragma GCC unroll 4
        for (int64_t i = 0; i + ABREAST <= N; i += ABREAST) {
            ckv decay[ABREAST];
#pragma GCC unroll 8
            for (int j = 0; j < ABREAST; j++) {
                decay[j] = delta[t] * ck_load(A + (i + j) * BLOCK);
            }
            ck_exp2s(ABREAST, decay);
#pragma GCC unroll 8
            for (int j = 0; j < ABREAST; j++) {
                h[i + j] = ck_fma(decay[j], h[i + j], input * ck_all(B[i + j]));
                if (j % 2) {
                    odd = ck_fma(ck_all(C[i + j]), h[i + j], odd);
                } else {
                    y = ck_fma(ck_all(C[i + j]), h[i + j], y);
                }
            }
        }
        for (int64_t i = N - N % ABREAST; i < N; i++) {
            h[i] = ck_fma(ck_exp2(delta[t] * ck_load(A + i * BLOCK)), h[i], input * ck_all(B[i]));
            y = ck_fma(ck_all(C[i]), h[i], y);
        }
        y += odd;
        if (s->z) {
            y *= ck_silu(CK_ISA(load)(ck_at(s->z, start + t) + c, live));
        }
        if (live >= CK_LANES) {
            ck_store(to, y);
        } else {
            ck_store_part(to, y, live);
        }
    }
}

/* The same for a carry of [CK_LANES][16], the N of every published model: known here, it stays in registers. */
CK_FN void CK_ISA(scan_block_of_16)(const scan_call *s, int64_t c, int64_t start, int64_t n, const ckv *delta, float *carry) {
    ckv h[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += CK_LANES) {
#pragma GCC unroll 16
        for (int r = 0; r < CK_LANES; r++) {
            h[i + r] = ck_load(carry + r * 16 + i);
        }
        CK_ISA(ck_interleave)(CK_LANES, h + i);
    }
    CK_ISA(scan_block)(s, 16, c, CK_LANES, start, n, delta, h);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += CK_LANES) {
        CK_ISA(ck_interleave)(CK_LANES, h + i);
#pragma GCC unroll 16
        for (int r = 0; r < CK_LANES; r++) {
            ck_store(carry + r * 16 + i, h[i + r]);
        }
    }
}

/* Channels first .. end of n <= SPAN tokens; carry: [M][N] in the pool, turned: room for [N][CK_LANES]. */
static void CK_ISA(scan_span)(const scan_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry,
                              float *turned) {
    const int64_t step = SPAN / n * CK_LANES; /* as many blocks at once as have SPAN step sizes together */
    ckv delta[SPAN];
    for (int64_t from = first; from < end; from += step) {
        const int64_t to = from + step < end ? from + step : end;
        CK_ISA(step_sizes)(s, from, to, start, n, delta);
        for (int64_t c = from; c < to; c += CK_LANES) {
            const ckv *steps = delta + (c - from) / CK_LANES * n;
            const int64_t live = to - c < CK_LANES ? to - c : CK_LANES;
            if (s->N == 16 && live == CK_LANES) {
                CK_ISA(scan_block_of_16)(s, c, start, n, steps, carry + c * 16);
                continue;
            }
            ck_transpose(carry + c * s->N, s->N, live, s->N, turned, CK_LANES);
            CK_ISA(scan_block)(s, s->N, c, live, start, n, steps, (ckv *)turned);
            ck_transpose(turned, CK_LANES, s->N, live, carry + c * s->N, s->N);
        }
    }
}

/* One sequence of n tokens, SPAN at a time: a block reads one line of every row, and rows lie whole pages apart. */
static void CK_ISA(scan_sequence)(const scan_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry,
                                  float *turned) {
    for (int64_t at = 0; at < n; at += SPAN) {
        CK_ISA(scan_span)(s, first, end, start + at, n - at < SPAN ? n - at : SPAN, carry, turned);
    }
}
