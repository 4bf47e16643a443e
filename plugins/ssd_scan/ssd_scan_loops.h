/* The loops of conifer.ssd_scan/1, for one instruction set. Included by ssd_scan.c through conifer_simd.h.
 *
 * Prefill works in chunks of Q tokens (Dao & Gu 2024, arXiv:2405.21060, section 6). With c[t] the sum of delta * A up to t,
 *
 *     y[t] = exp(c[t]) C[t] S  +  sum over s <= t of exp(c[t] - c[s]) (C[t] . B[s]) delta[s] x[s]
 *     S   <- exp(c[Q]) S  +  sum over s of exp(c[Q] - c[s]) delta[s] B[s] x[s]'
 *
 * are matrix products: only the exponents' differences appear, so nothing overflows. The carry is held transposed meanwhile,
 * [N][P], so that vectors run over P. */

/* delta[t] of one head for n tokens: bias, softplus and clamp. */
static void CK_ISA(step_sizes)(const scan_call *s, int64_t h, int64_t first, int64_t n, float *delta) {
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
        ck_store_part(delta + t, v, n - t);
    }
}

/* y = (y + D x) silu(z) for one row of one head. */
CK_FN void CK_ISA(finish_row)(const scan_call *s, int64_t h, int64_t t, const float *sum) {
    const float *x = ck_at2(s->x, t, h), *z = s->z ? ck_at2(s->z, t, h) : NULL;
    float *y = ck_at2(s->y, t, h);
    const ckv d = ck_all(s->d ? s->d[h] : 0.0f);
    int64_t p = 0;
    for (; p + CK_LANES <= s->P; p += CK_LANES) {
        const ckv v = ck_fma(d, ck_load(x + p), ck_load(sum + p));
        ck_store(y + p, z ? v * ck_silu(ck_load(z + p)) : v);
    }
    if (p < s->P) {
        const ckv v = ck_fma(d, ck_load_part(x + p, s->P - p), ck_load_part(sum + p, s->P - p));
        ck_store_part(y + p, z ? v * ck_silu(ck_load_part(z + p, s->P - p)) : v, s->P - p);
    }
}

/* Few tokens: one pass over the carry for each, row by row, as it lies in the pool. */
static void CK_ISA(scan_few)(const scan_call *s, int64_t h, int64_t first, int64_t n, float *carry, const scan_room *room) {
    const int64_t g = h / (s->H / s->G), N = s->N, whole = N - N % CK_LANES;
    CK_ISA(step_sizes)(s, h, first, n, room->delta);
    for (int64_t t = 0; t < n; t++) {
        const float *x = ck_at2(s->x, first + t, h), *B = ck_at2(s->B, first + t, g), *C = ck_at2(s->C, first + t, g);
        float exponent[CK_LANES] = {room->delta[t] * s->a[h]};
        const ckv decay = ck_all(ck_exp(ck_load(exponent))[0]);
        for (int64_t p = 0; p < s->P; p++) {
            float *row = carry + p * N;
            const ckv weight = ck_all(room->delta[t] * x[p]);
            ckv even = ck_all(0.0f), odd = ck_all(0.0f);
            int64_t i = 0;
            for (; i + 2 * CK_LANES <= whole; i += 2 * CK_LANES) {
                const ckv u = ck_fma(weight, ck_load(B + i), decay * ck_load(row + i));
                const ckv v = ck_fma(weight, ck_load(B + i + CK_LANES), decay * ck_load(row + i + CK_LANES));
                ck_store(row + i, u);
                ck_store(row + i + CK_LANES, v);
                even = ck_fma(u, ck_load(C + i), even);
                odd = ck_fma(v, ck_load(C + i + CK_LANES), odd);
            }
            for (; i < whole; i += CK_LANES) {
                const ckv u = ck_fma(weight, ck_load(B + i), decay * ck_load(row + i));
                ck_store(row + i, u);
                even = ck_fma(u, ck_load(C + i), even);
            }
            if (i < N) {
                const ckv u = ck_fma(weight, ck_load_part(B + i, N - i), decay * ck_load_part(row + i, N - i));
                ck_store_part(row + i, u, N - i);
                odd = ck_fma(u, ck_load_part(C + i, N - i), odd);
            }
            room->y[p] = ck_sum(even + odd);
        }
        CK_ISA(finish_row)(s, h, first + t, room->y);
    }
}

/* scores[t][s] = C[t] . B[s] for s <= t in one chunk: every head of the group shares them. */
static void CK_ISA(chunk_scores)(const scan_call *s, int64_t g, int64_t first, int64_t n, const scan_room *room) {
    const int64_t stride = s->B->stride_bytes[0] / (int64_t)sizeof(float);
    ck_transpose(ck_at2(s->B, first, g), stride, n, s->N, room->b_turned, CHUNK);
    const int64_t c_row = s->C->stride_bytes[0] / (int64_t)sizeof(float);
    ck_product(n, CHUNK, s->N, ck_at2(s->C, first, g), c_row, 1, room->b_turned, CHUNK, NULL, room->scores, CHUNK);
}

/* decay[t] = exp(c[t]), rest[s] = exp(c[Q] - c[s]), mixed[t][s] = exp(c[t] - c[s]) (C[t] . B[s]), 0 where s > t.
 *
 * c[t] - c[s] is summed from s on: as the difference of two long sums it would lose what a large step before s costs. */
static void CK_ISA(chunk_decays)(float a, int64_t n, const scan_room *room) {
    float since[CHUNK] = {0}, total = 0.0f;
    for (int64_t t = 0; t < CHUNK; t++) {
        total += t < n ? room->delta[t] * a : 0.0f;
        room->decay[t] = total;
    }
    for (int64_t t = 0; t < n; t++) {
        const ckv step = ck_all(room->delta[t] * a);
        float *mixed = room->mixed + t * CHUNK;
        for (int64_t i = 0; i < t; i += CK_LANES) {
            ck_store(since + i, ck_load(since + i) + step);
        }
        for (int64_t i = t; i < t + CK_LANES && i < CHUNK; i++) {
            since[i] = 0.0f;
        }
        for (int64_t i = 0; i < CHUNK; i += CK_LANES) {
            const ckv score = ck_load(room->scores + t * CHUNK + i);
            ck_store(mixed + i, i > t ? ck_all(0.0f) : ck_exp(ck_load(since + i)) * score);
        }
        for (int64_t i = t + 1; i % CK_LANES != 0; i++) {
            mixed[i] = 0.0f;
        }
    }
    for (int64_t t = 0; t < CHUNK; t += CK_LANES) {
        ck_store(room->decay + t, ck_exp(ck_load(room->decay + t)));
        ck_store(room->rest + t, ck_exp(ck_load(since + t)));
    }
}

/* One chunk of one head; `carry` is [N][width], transposed and padded with zeros. */
static void CK_ISA(scan_chunk)(const scan_call *s, int64_t h, int64_t first, int64_t n, float *carry, const scan_room *room) {
    const int64_t g = h / (s->H / s->G), width = s->width, b_row = s->B->stride_bytes[0] / (int64_t)sizeof(float);
    const int64_t c_row = s->C->stride_bytes[0] / (int64_t)sizeof(float);
    CK_ISA(step_sizes)(s, h, first, n, room->delta);
    CK_ISA(chunk_decays)(s->a[h], n, room);
    const float all[1] = {room->decay[n - 1]};
    for (int64_t t = 0; t < n; t++) { /* x, and delta * exp(c[Q] - c[t]) * x, padded to whole vectors */
        const float *x = ck_at2(s->x, first + t, h);
        const ckv plain = ck_all(room->delta[t]), last = ck_all(room->delta[t] * room->rest[t]);
        int64_t p = 0;
        for (; p + CK_LANES <= s->P; p += CK_LANES) {
            const ckv v = ck_load(x + p);
            ck_store(room->x + t * width + p, plain * v);
            ck_store(room->x_last + t * width + p, last * v);
        }
        if (p < s->P) {
            const ckv v = ck_load_part(x + p, s->P - p);
            ck_store(room->x + t * width + p, plain * v);
            ck_store(room->x_last + t * width + p, last * v);
        }
    }
    ck_product(n, width, s->N, ck_at2(s->C, first, g), c_row, 1, carry, width, NULL, room->y, width);
    for (int64_t t = 0; t < n; t += 6) {
        const int64_t rows = n - t < 6 ? n - t : 6;
        ck_product(rows, width, t + rows, room->mixed + t * CHUNK, CHUNK, 1, room->x, width, room->decay + t, room->y + t * width,
                   width);
    }
    for (int64_t i = 0; i < s->N; i++) {
        room->keep[i] = all[0];
    }
    ck_product(s->N, width, n, ck_at2(s->B, first, g), 1, b_row, room->x_last, width, room->keep, carry, width);
    for (int64_t t = 0; t < n; t++) {
        CK_ISA(finish_row)(s, h, first + t, room->y + t * width);
    }
}

/* Heads first .. end of one sequence of n tokens. */
static void CK_ISA(scan_sequence)(const scan_call *s, int64_t head, int64_t end, int64_t start, int64_t n, float *pool,
                                  const scan_room *room) {
    const int64_t size = s->P * s->N;
    if (n < FEW) {
        for (int64_t h = head; h < end; h++) {
            CK_ISA(scan_few)(s, h, start, n, pool + h * size, room);
        }
        return;
    }
    for (int64_t h = head; h < end; h++) {
        ck_transpose(pool + h * size, s->N, s->P, s->N, room->carry + h * s->N * s->width, s->width);
    }
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t rows = n - at < CHUNK ? n - at : CHUNK;
        int64_t scored = -1;
        for (int64_t h = head; h < end; h++) {
            const int64_t g = h / (s->H / s->G);
            if (g != scored) {
                CK_ISA(chunk_scores)(s, g, start + at, rows, room);
                scored = g;
            }
            CK_ISA(scan_chunk)(s, h, start + at, rows, room->carry + h * s->N * s->width, room);
        }
    }
    for (int64_t h = head; h < end; h++) {
        ck_transpose(room->carry + h * s->N * s->width, s->width, s->N, s->P, pool + h * size, s->N);
    }
}
