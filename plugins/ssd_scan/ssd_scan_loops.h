/* The loops of conifer.ssd_scan/1, for one instruction set. Included by ssd_scan.c through conifer_simd.h.
 *
 * A row of the carry is advanced token by token and sums its N products in the same order however many tokens the call has, so
 * the bits of a token do not depend on that. A piece of two rows stays in registers for a chunk of tokens: an element costs the
 * three operations of the recurrence, and no load or store of the carry. */

CK_FN ckv CK_ISA(load)(const float *p, int64_t n) { return n >= CK_LANES ? ck_load(p) : ck_load_part(p, n); }

CK_FN void CK_ISA(store)(float *p, ckv v, int64_t n) {
    if (n >= CK_LANES) {
        ck_store(p, v);
    } else {
        ck_store_part(p, v, n);
    }
}

/* Of n tokens and n_head <= HEADS heads: delta (bias, softplus, clamp) and the decays exp(delta A), all heads side by side. */
static void CK_ISA(step_sizes)(const scan_call *s, int64_t h, int64_t n_head, int64_t first, int64_t n, const scan_room *room) {
    for (int64_t t = 0; t < n; t += CK_LANES) {
        ckv delta[HEADS], decay[HEADS];
        for (int64_t i = 0; i < HEADS; i++) {
            float held[CK_LANES] = {0};
            for (int64_t j = 0; i < n_head && j < CK_LANES && t + j < n; j++) {
                held[j] = ck_at(s->dt, first + t + j)[h + i] + (s->dt_bias ? s->dt_bias[h + i] : 0.0f);
            }
            delta[i] = ck_load(held);
        }
        if (s->softplus) {
            ck_softplusses(HEADS, delta);
        }
        for (int64_t i = 0; i < HEADS; i++) {
            delta[i] = ck_min(ck_max(delta[i], ck_all(s->dt_min)), ck_all(s->dt_max));
            decay[i] = i < n_head ? delta[i] * ck_all(s->a[h + i]) : ck_all(0.0f);
        }
        ck_exps(HEADS, decay);
        for (int64_t i = 0; i < n_head; i++) {
            ck_store(room->delta + i * CHUNK + t, delta[i]);
            ck_store(room->decay + i * CHUNK + t, decay[i]);
        }
    }
}

/* Dense rows of B and C of n tokens and one group. */
static void CK_ISA(copy_rows)(const scan_call *s, int64_t g, int64_t first, int64_t n, const scan_room *room) {
    for (int64_t t = 0; t < n; t++) {
        const float *B = ck_at2(s->B, first + t, g), *C = ck_at2(s->C, first + t, g);
        for (int64_t i = 0; i < s->wide; i += CK_LANES) {
            ck_store(room->B + t * s->wide + i, CK_ISA(load)(B + i, s->N - i));
            ck_store(room->C + t * s->wide + i, CK_ISA(load)(C + i, s->N - i));
        }
    }
}

/* n tokens of a piece of the carry, n_row x n_vector vectors from column `at` on; with `part`, n_row x the columns that are left.
 * It is read and written once; its products with C make a vector of partial sums a token and row, which the first piece begins. */
CK_FN void CK_ISA(advance)(int n_row, int n_vector, int part, int64_t at, const scan_call *s, int64_t n, const scan_room *room,
                           const float *decays, int64_t row, float *carry) {
    const float *B = room->B + at, *C = room->C + at, *weight = room->weight + row;
    float       *sum = room->sum + row * CK_LANES;
    const int64_t live = part ? s->N - at : CK_LANES;
    const int     first = at == 0;
    ckv           state[2][8];
    carry += at;
#pragma GCC unroll 2
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < n_vector; i++) {
            state[r][i] = CK_ISA(load)(carry + r * s->N + i * CK_LANES, live);
        }
    }
    for (int64_t t = 0; t < n; t++, B += s->wide, C += s->wide, weight += CK_LANES, sum += CK_LANES * CK_LANES) {
        const ckv decay = ck_all(decays[t]);
        ckv       y[2], w[2];
#pragma GCC unroll 2
        for (int r = 0; r < n_row; r++) {
            w[r] = ck_all(weight[r]);
            y[r] = first ? ck_all(0.0f) : ck_load(sum + r * CK_LANES);
        }
#pragma GCC unroll 8
        for (int i = 0; i < n_vector; i++) {
            const ckv b = ck_load(B + i * CK_LANES), c = ck_load(C + i * CK_LANES);
#pragma GCC unroll 2
            for (int r = 0; r < n_row; r++) {
                state[r][i] = ck_fma(w[r], b, decay * state[r][i]);
                y[r] = ck_fma(c, state[r][i], y[r]);
            }
        }
#pragma GCC unroll 2
        for (int r = 0; r < n_row; r++) {
            ck_store(sum + r * CK_LANES, y[r]);
        }
    }
#pragma GCC unroll 2
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < n_vector; i++) {
            CK_ISA(store)(carry + r * s->N + i * CK_LANES, state[r][i], live);
        }
    }
}

/* n tokens of n_row whole rows. */
CK_FN void CK_ISA(advance_rows)(int n_row, const scan_call *s, int64_t n, const scan_room *room, const float *decays,
                                int64_t row, float *carry) {
    enum { PIECE = CK_REGISTERS / 4 }; /* vectors: two rows of them take half of the registers */
    int64_t at = 0;
    if (PIECE * CK_LANES <= s->N) {
        CK_ISA(advance)(n_row, PIECE, 0, 0, s, n, room, decays, row, carry);
        at = PIECE * CK_LANES;
    }
    for (; at + PIECE * CK_LANES <= s->N; at += PIECE * CK_LANES) {
        CK_ISA(advance)(n_row, PIECE, 0, at, s, n, room, decays, row, carry);
    }
    if (at + PIECE / 2 * CK_LANES <= s->N) {
        CK_ISA(advance)(n_row, PIECE / 2, 0, at, s, n, room, decays, row, carry);
        at += PIECE / 2 * CK_LANES;
    }
    for (; at < s->N; at += CK_LANES) {
        CK_ISA(advance)(n_row, 1, 1, at, s, n, room, decays, row, carry);
    }
}

/* n tokens of head h, first the first of them, for the `live` <= CK_LANES rows from p on, whose carry is given. */
CK_FN void CK_ISA(scan_rows)(const scan_call *s, int64_t h, int64_t first, int64_t n, int64_t p, int64_t live,
                             const scan_room *room, const float *deltas, const float *decays, float *carry) {
    const ckv d = ck_all(s->d ? s->d[h] : 0.0f);
    for (int64_t t = 0; t < n; t++) {
        const float *from = ck_at2(s->x, first + t, h) + p;
        const ckv    x = CK_ISA(load)(from, live);
        ck_fetch(from + CK_LANES, 1); /* rows lie whole pages apart: the processor does not foresee what comes next */
        ck_fetch(ck_at2(s->y, first + t, h) + p, 1);
        ck_store(room->weight + t * CK_LANES, ck_all(deltas[t]) * x);
    }
    for (int64_t r = 0; r + 2 <= live; r += 2) {
        if (n == 1) { /* each carry is read once, and its rows lie too near each other for the processor to foresee it */
            ck_fetch(carry + r * s->N + AHEAD, 2 * s->N);
        }
        CK_ISA(advance_rows)(2, s, n, room, decays, r, carry + r * s->N);
    }
    if (live % 2 == 1) {
        CK_ISA(advance_rows)(1, s, n, room, decays, live - 1, carry + (live - 1) * s->N);
    }
    for (int64_t t = 0; t < n; t++) {
        const ckv x = CK_ISA(load)(ck_at2(s->x, first + t, h) + p, live);
        ckv       y = ck_fma(d, x, ck_sums((const ckv *)(room->sum + t * CK_LANES * CK_LANES)));
        if (s->z) {
            y *= ck_silu(CK_ISA(load)(ck_at2(s->z, first + t, h) + p, live));
        }
        CK_ISA(store)(ck_at2(s->y, first + t, h) + p, y, live);
    }
}

/* n <= chunk tokens of n_head <= HEADS heads of one group: they share B and C, and their rows of x and y lie side by side. */
static void CK_ISA(scan_chunk)(const scan_call *s, int64_t h, int64_t n_head, int64_t first, int64_t n, float *pool,
                               const scan_room *room) {
    CK_ISA(step_sizes)(s, h, n_head, first, n, room);
    CK_ISA(copy_rows)(s, h / (s->H / s->G), first, n, room);
    for (int64_t i = 0; i < n_head; i++) {
        for (int64_t p = 0; p < s->P; p += CK_LANES) {
            const int64_t live = s->P - p < CK_LANES ? s->P - p : CK_LANES;
            CK_ISA(scan_rows)(s, h + i, first, n, p, live, room, room->delta + i * CHUNK, room->decay + i * CHUNK,
                              pool + ((h + i) * s->P + p) * s->N);
        }
    }
}

/* Heads first .. end of one sequence of n tokens. */
static void CK_ISA(scan_sequence)(const scan_call *s, int64_t head, int64_t end, int64_t start, int64_t n, float *pool,
                                  const scan_room *room) {
    const int64_t of_group = s->H / s->G;
    for (int64_t h = head, n_head; h < end; h += n_head) {
        n_head = of_group - h % of_group;
        n_head = n_head < HEADS ? n_head : HEADS;
        n_head = n_head < end - h ? n_head : end - h;
        for (int64_t at = 0; at < n; at += s->chunk) {
            CK_ISA(scan_chunk)(s, h, n_head, start + at, n - at < s->chunk ? n - at : s->chunk, pool, room);
        }
    }
}
